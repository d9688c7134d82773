"""Write `tests/goldens/*.npz`: what transformers 5.23 says, so that the default tests need no torch.

`python -m g4convert.tests.parity.make_goldens [kind ...]`, all samples by default. `text-<kind>` holds `ids` int64
[2w+3], `positions`, and `logits` float32 [positions, vocabulary]; every fourth position and the last keep a file small.
`towers-<kind>` holds, for the pictures and clips of `tests/loaders/tower_inputs.py`, what comes out of the towers
(`picture_tokens`, `clip_tokens`) and of the embedders (`picture_features`, `clip_features`), float32, one picture or
clip after the other, and the digest `inputs` of what went in. `sha256` is that of the sample's weights: a sample that
was made anew needs a new golden.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from g4convert.tests.loaders.samples import weights_sha256
from g4convert.tests.loaders.tower_inputs import GOLDEN_CLIPS, HEARING, SEEING, golden_inputs, inputs_sha256
from g4convert.tests.parity import reference
from g4convert.tests.support import KINDS, TESTS

WINDOW = 32
STEP = 4


def make(kind: str) -> None:
    """Write one golden."""
    ids = reference.random_ids(kind, 2 * WINDOW + 3, seed=1)
    positions = np.array([*range(0, len(ids) - 1, STEP), len(ids) - 1])
    logits = reference.reference_logits(reference.reference_model(kind), ids)[positions]
    arrays = {"ids": ids, "positions": positions, "logits": logits, "sha256": np.array(weights_sha256(kind))}
    np.savez_compressed(TESTS / "goldens" / f"text-{kind}.npz", **arrays)


def make_towers(kind: str) -> None:
    """Write one golden of the towers."""
    model = reference.reference_model(kind).model
    arrays = {"sha256": np.array(weights_sha256(kind)), "inputs": np.array(inputs_sha256())}
    with torch.no_grad():
        arrays.update(see(model))
        if kind in HEARING:
            arrays.update(hear(model))
    np.savez_compressed(TESTS / "goldens" / f"towers-{kind}.npz", **arrays)


def see(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Soft tokens and features of the pictures."""
    patches, positions, _, _ = map(torch.from_numpy, golden_inputs())
    out = model.get_image_features(patches, positions.long())
    return {
        "picture_tokens": out.last_hidden_state.numpy(),
        "picture_features": torch.cat(tuple(out.pooler_output)).numpy(),
    }


def hear(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Soft tokens and features of the clips, each heard alone."""
    _, _, features, mask = map(torch.from_numpy, golden_inputs())
    outputs = [
        model.get_audio_features(features[[index], :length], mask[[index], :length])
        for index, length in enumerate(GOLDEN_CLIPS)
    ]
    return {
        "clip_tokens": torch.cat([out.last_hidden_state[0] for out in outputs]).numpy(),
        "clip_features": torch.cat([out.pooler_output[0] for out in outputs]).numpy(),
    }


def main() -> None:
    """Write those that the command line names."""
    for kind in sys.argv[1:] or KINDS:
        make(kind)
        if kind in SEEING:
            make_towers(kind)


if __name__ == "__main__":
    main()
