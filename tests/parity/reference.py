"""The reference, transformers in float32, and how far logits are from it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np
from g4convert.tests.support import CHECKPOINTS

sys.path.append(str(CHECKPOINTS / "scripts"))

import torch
import torchvision_on_cpu  # noqa: F401 (before transformers imports torchvision)
import transformers

# The marks for float32: rounding and nothing else.
LARGEST_NMSE, LARGEST_KL = 1e-10, 2e-10

# The ids that stand for media; without the medium they mean nothing.
MEDIA_KEYS = ("image_token_id", "video_token_id", "audio_token_id")


def reference_model(kind: str) -> torch.nn.Module:
    """The sample in transformers, float32, `attn_implementation` left unset."""
    torch.set_num_threads(1)
    source = CHECKPOINTS / kind
    (architecture,) = json.loads((source / "config.json").read_text())["architectures"]
    model = getattr(transformers, architecture).from_pretrained(source, dtype=torch.float32)
    return model.eval()


def reference_logits(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    """Logits float32 [L, vocabulary] of one pass without a cache, for ids [L]."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits
    return logits[0].numpy()


def random_ids(kind: str, length: int, seed: int = 0) -> np.ndarray:
    """Ids int64 [length] of any token but the placeholders, BOS first."""
    config = json.loads((CHECKPOINTS / kind / "config.json").read_text())
    vocabulary = config.get("text_config", config)["vocab_size"]
    allowed = np.setdiff1d(np.arange(vocabulary), [config[key] for key in MEDIA_KEYS if key in config])
    ids = np.random.default_rng(seed).choice(allowed, length)
    ids[0] = 2
    return ids


@dataclass(frozen=True)
class Distance:
    """How far logits are from the reference's: `kl` is the largest over positions, the others are over all."""

    nmse: float
    kl: float
    top1: float

    @property
    def is_rounding(self) -> bool:
        """Whether the marks are met."""
        return self.nmse <= LARGEST_NMSE and self.kl <= LARGEST_KL and self.top1 == 1.0


def distance(logits: np.ndarray, expected: np.ndarray) -> Distance:
    """Compare logits [L, vocabulary] in float64."""
    ours, theirs = logits.astype(np.float64), expected.astype(np.float64)
    assert ours.shape == theirs.shape
    log_p, log_q = _log_softmax(theirs), _log_softmax(ours)
    return Distance(
        nmse=float(((ours - theirs) ** 2).sum() / (theirs**2).sum()),
        kl=float((np.exp(log_p) * (log_p - log_q)).sum(-1).max()),
        top1=float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
