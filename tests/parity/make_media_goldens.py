"""Write `tests/media/goldens.npz`: what transformers 5.23 makes of media, so that the default tests need no torch.

`python -m g4convert.tests.parity.make_media_goldens`. It holds `mel/<signal>-<length>` float32 [F, 128] with
`valid/...` bool [F] and `tokens/...`; `image/<file>`, every eighth patch as bytes (a value is a byte over 255,
exactly), with `positions/...` [N, 2] and `tokens/...`; `indices/<file>` and `timestamps/<file>`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from g4convert.tests.media.make_media import HERE, SIGNALS
from g4convert.tests.parity import media_reference as reference

LENGTHS = (161, 1000, 5000, 8192)
PICTURES = ("picture.png", "transparent.png", "palette.gif", "turned.jpg")
CLIPS = ("constant.mp4", "variable.mp4")
BUDGET, STEP = 70, 8


def mel() -> dict[str, Any]:
    arrays = {}
    for name, signal in SIGNALS.items():
        for length in LENGTHS:
            key = f"{name}-{length}"
            arrays[f"mel/{key}"], arrays[f"valid/{key}"] = reference.mel(signal(length))
            arrays[f"tokens/{key}"] = reference.audio_tokens(arrays[f"valid/{key}"])
    return arrays


def images() -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for name in PICTURES:
        patches, positions, tokens = reference.image(reference.opened(HERE / name), BUDGET)
        arrays[f"image/{name}"] = np.round(patches[::STEP] * 255).astype(np.uint8)
        arrays[f"positions/{name}"], arrays[f"tokens/{name}"] = positions, tokens
    return arrays


def clips() -> dict[str, Any]:
    arrays = {}
    for name in CLIPS:
        arrays[f"indices/{name}"], arrays[f"timestamps/{name}"], _ = reference.sampled(HERE / name, num_frames=6)
    return arrays


def main() -> None:
    """Write the file."""
    np.savez_compressed(HERE / "goldens.npz", **mel(), **images(), **clips())


if __name__ == "__main__":
    main()
