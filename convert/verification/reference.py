"""The step `reference`: the probes through transformers in float32, the source's weights beside the conversion's.

Torch and transformers are imported when the step is asked for; nothing else of the package needs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...loaders.config import UNIFIED, ModelConfig
from ...loaders.encoding import NO_FRAME, NO_PATCH, Medium, media_of, stacked
from ...loaders.prompt import Prompt
from ..encodings import EncodedTensor
from ..source import Source
from .checking import CheckFunction, Notes, SkipError
from .compare import LogitComparison, LogitDistance
from .limits import Limits, judge
from .outcome import Finding
from .probes import make_probes
from .subject import Subject
from .tracing import Runner, converted_runner

TRANSFORMERS = "transformers"
# Other versions compute other things: some had the mask of the audio tower inverted.
EXPECTED = "5.23"

CLASSES: Mapping[str, str] = {
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_text": "Gemma4ForCausalLM",
    "gemma4_unified": "Gemma4UnifiedForConditionalGeneration",
    "gemma4_unified_text": "Gemma4UnifiedForCausalLM",
}

# Behind the longest medium of a batch, so that every medium has padding: a pooled square of patches.
PADDING = 9
Array = NDArray[Any]
Inputs = dict[str, Any]
"""What the reference's `forward` takes, tensors of torch by name."""


def reference_checks(subject: Subject, limits: Limits, *, asked: bool) -> Mapping[str, CheckFunction]:
    """The checks of the step."""
    work = _Reference(subject, limits, asked)
    return {
        "libraries": lambda _, notes: work.libraries(notes),
        "beside the reference": lambda _, notes: work.fidelity(notes),
    }


class _Reference:
    """The source in transformers."""

    def __init__(self, subject: Subject, limits: Limits, asked: bool) -> None:
        self.subject, self.limits, self.asked = subject, limits, asked

    @cached_property
    def source(self) -> Source:
        """The source, or no check."""
        if not self.asked:
            raise SkipError("not asked for")
        if self.subject.source is None:
            raise SkipError("no source was given")
        if any(isinstance(info, EncodedTensor) for info in self.subject.source.checkpoint.tensors.values()):
            raise SkipError("the source's weights are packed, and transformers computes with them in another way")
        return self.subject.source

    @cached_property
    def model(self) -> Any:
        return load_reference(self.source)

    def libraries(self, notes: Notes) -> Iterator[Finding]:
        """What computes; another version than the one that was compared with is said, and no defect."""
        _ = self.source
        import_libraries()
        found = {name: version(name) for name in ("torch", TRANSFORMERS)}
        notes.figures.update(found, expected=EXPECTED)
        if not re.match(rf"{re.escape(EXPECTED)}(\.|$)", found[TRANSFORMERS]):
            notes.figures["note"] = f"transformers {found[TRANSFORMERS]} may compute otherwise than {EXPECTED}"
        yield from ()

    def fidelity(self, notes: Notes) -> Iterator[Finding]:
        """The probes side by side with the reference, in float32."""
        source = self.source
        import_libraries()
        runner = converted_runner(self.subject)
        for probe in make_probes(self.subject.prompt):
            notes.at(probe.name)
            expected = reference_logits(self.model, source.config, probe.prompt)
            found = compare(runner, probe.prompt, expected)
            notes.figures[probe.name] = {"converted": {"logits": found.figures(), "kl": found.kl.tolist()}}
            yield from judge(self.subject, source, self.limits, probe.name, found)


def import_libraries() -> None:
    """Import what computes.

    Raises:
        SkipError: it is not installed, or does not import.
    """
    try:
        _library("torch")
        _library(TRANSFORMERS)
    except Exception as error:  # a broken build raises whatever it likes
        reason = " ".join(str(error).split())
        raise SkipError(f"needs torch and transformers, g4convert[parity] brings them: {reason}") from None


def _library(name: str) -> Any:
    """A library without types, or with types that change with its version."""
    return import_module(name)


def load_reference(source: Source) -> Any:
    """The source as transformers loads it, float32, `attn_implementation` left unset.

    Raises:
        SkipError: this version has no such architecture.
    """
    torch, transformers = _library("torch"), _library(TRANSFORMERS)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    name = CLASSES[source.config.model_type]
    if not hasattr(transformers, name):
        raise SkipError(f"transformers {version(TRANSFORMERS)} has no {name}")
    folder = source.checkpoint.folder
    model = getattr(transformers, name).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return model.eval()


def compare(runner: Runner, prompt: Prompt, expected: NDArray[np.float32]) -> LogitDistance:
    """How far the logits of a streamed network are from expected ones, [L, vocabulary]."""
    merged = runner.merged(prompt, runner.features(prompt))
    comparison = LogitComparison(np.array(prompt.ids))
    for start, piece in runner.logits(runner.last(merged, {}, 0, len(prompt.ids))):
        comparison.add(start, expected[:, start : start + piece.shape[-1]], piece)
    return comparison.result()


def reference_logits(model: Any, config: ModelConfig, prompt: Prompt) -> NDArray[np.float32]:
    """Logits float32 [L, vocabulary] of one pass without a cache."""
    inputs = reference_inputs(config, prompt)
    with _library("torch").no_grad():
        output = model(**inputs, **own_masks(model, inputs), use_cache=False)
    logits: NDArray[np.float32] = output.logits[0].numpy()
    return logits


def own_masks(model: Any, inputs: Inputs) -> Inputs:
    """Gemma 4's masks for 12B, whose `forward` would make Gemma 3's: those open vision blocks on full layers too.

    The class makes these itself, but `generate` asks for them only where its cache can be compiled.
    """
    if type(model).__name__ != CLASSES[UNIFIED]:
        return {}
    ids = inputs["input_ids"]
    masks = model.create_masks_for_generate(
        config=model.config,
        inputs_embeds=model.get_input_embeddings()(ids),
        attention_mask=None,
        past_key_values=None,
        position_ids=_library("torch").arange(ids.shape[1])[None],
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )
    return {"attention_mask": masks}


def reference_inputs(config: ModelConfig, prompt: Prompt) -> Inputs:
    """What `forward` takes, of the very arrays that our front ends made."""
    ids = np.array(prompt.ids)
    media = media_of(prompt)
    arrays = {
        "input_ids": ids[None],
        **_padded(media["image"], ("pixel_values", "image_position_ids"), NO_PATCH),
        **_padded(media["video"], ("pixel_values_videos", "video_position_ids"), NO_PATCH),
        **_padded(media["audio"], ("input_features", "input_features_mask"), NO_FRAME),
    }
    if prompt.videos:
        arrays["num_frames_per_video"] = np.array([len(video.patches) for video in prompt.videos])
    if not config.text_only:
        arrays["mm_token_type_ids"] = _token_types(config, ids)[None]
    return {name: _tensor(array) for name, array in arrays.items()}


def _token_types(config: ModelConfig, ids: Array) -> Array:
    """For each token what it stands for: 1 a picture, 2 a clip, 3 a sound, 0 itself."""
    media = config.media_tokens
    types = np.zeros_like(ids)
    for number, token in enumerate((media.image_token_id, media.video_token_id, media.audio_token_id), 1):
        types[ids == token] = number
    return types


def _padded(media: Sequence[Medium], names: tuple[str, str], padding: int) -> dict[str, Array]:
    """[n, ...] each, to [B, longest n and more, ...]; nothing without media."""
    if not media:
        return {}
    columns = zip(names, zip(*media, strict=True), (0, padding), strict=True)
    return {name: stacked(arrays, fill, more=PADDING) for name, arrays, fill in columns}


def _tensor(array: Array) -> Any:
    tensor = _library("torch").from_numpy(np.ascontiguousarray(array))
    return tensor.long() if array.dtype == np.int32 else tensor
