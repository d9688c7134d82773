"""How savers spell a tensor's place: every known prefix, and the one that the tables use."""

from __future__ import annotations

import re

# What wraps a whole model: PEFT, data-parallel training, torch.compile.
WRAPPED = re.compile(r"\A(?:base_model\.model\.|module\.|_orig_mod\.)+")

PARTS = ("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.", "vision_embedder.")

# Longest first: transformers' prefixes, MLX's, text-only savers', none. Every name has a root, since the last is empty;
# what no table knows is refused later, under its own name.
ROOTS: tuple[tuple[str, str], ...] = tuple(
    sorted(
        (
            ("language_model.lm_head.", "lm_head."),
            ("model.lm_head.", "lm_head."),
            ("lm_head.", "lm_head."),
            ("model.language_model.model.", "language_model."),
            ("model.language_model.", "language_model."),
            ("language_model.model.", "language_model."),
            ("language_model.", "language_model."),
            ("model.", "language_model."),
            ("", "language_model."),
            *((part, part) for part in PARTS),
            *((f"model.{part}", part) for part in PARTS),
        ),
        key=lambda root: -len(root[0]),
    )
)


def canonical(name: str) -> str:
    """The name by which the tables know a source tensor, whoever saved it."""
    name = WRAPPED.sub("", name, count=1)
    prefix, root = next(root for root in ROOTS if name.startswith(root[0]))
    return root + name.removeprefix(prefix)


def mlx_name(name: str, *, text_only: bool) -> str:
    """The name that mlx-lm, mlx-vlm and mlx-swift-lm load, for a name of the tables.

    Checkpoints of `model_type` gemma4_text hold the language model at the top, without `language_model.`.
    """
    root = "" if text_only else "language_model."
    if name.startswith("lm_head."):
        return root + name
    if name.startswith("language_model."):
        return f"{root}model.{name.removeprefix('language_model.')}"
    return name
