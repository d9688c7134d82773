"""Write `tests/goldens/text-<kind>.npz`: what transformers 5.23 says, so that the default tests need no torch.

`python -m g4convert.tests.parity.make_goldens [kind ...]`, all samples by default. Each file holds `ids` int64 [2w+3],
`positions`, and `logits` float32 [positions, vocabulary]; every fourth position and the last keep a file small.
`sha256` is that of the sample's weights: a sample that was made anew needs a new golden.
"""

from __future__ import annotations

import sys

import numpy as np
from g4convert.tests.loaders.samples import weights_sha256
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


def main() -> None:
    """Write those that the command line names."""
    for kind in sys.argv[1:] or KINDS:
        make(kind)


if __name__ == "__main__":
    main()
