"""The weights of a Hugging Face checkpoint under the names and in the layout of MLX, for a streamed network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...loaders.checkpoint import BLOCK
from ...loaders.streaming import NUMPY_DTYPES, Parameters
from ..chunks import convert, cut, read
from ..decoding import open_files
from ..inventory import take_inventory
from ..plan import Step, build_plan, wanted_parts
from ..recipe import NO_QUANTIZATION
from ..source import Source


@dataclass(frozen=True)
class SourceWeights:
    """Reads a source as an unquantized conversion to float32 would; see `Weights` for the methods.

    Attributes:
        steps: by the name of the output tensor.
    """

    steps: Mapping[str, Step]

    @classmethod
    def of(cls, source: Source, modalities: Sequence[str]) -> SourceWeights:
        """The weights of a source, for these modalities.

        Raises:
            TensorError: the source is not what its config calls for.
        """
        inventory = take_inventory(source.config, source.checkpoint.tensors.values(), wanted_parts(modalities))
        plan = build_plan(
            source.config, inventory, NO_QUANTIZATION, dtype="F32", modalities=modalities, max_shard_size=1 << 60
        )
        return cls({step.name: step for step in plan.steps})

    def parameters(self, names: Sequence[str]) -> Parameters:
        """Parameters by their names in the MLX checkpoint, float32."""
        return [(name, _rows(self.steps[name], 0, self.steps[name].rows)) for name in names]

    def rows(self, module: str, start: int, stop: int) -> mx.array:
        """Rows of a module's weight: float32 [rows, columns]."""
        return _rows(self.steps[f"{module}.weight"], start, stop)


def _rows(step: Step, start: int, stop: int) -> mx.array:
    """Rows of the output; the whole tensor has the shape that the network wants."""
    values = np.empty((stop - start) * step.row_length, np.float32)
    with open_files({part.file for part in step.source.parts}) as files:
        for chunk in cut(step, BLOCK, start, stop):
            (piece,) = convert(chunk, read(chunk, files))
            first = (chunk.start - start) * step.row_length
            part = np.frombuffer(piece.data, NUMPY_DTYPES[step.outputs[0].dtype])
            values[first : first + part.size] = part
    whole = (start, stop) == (0, step.rows)
    return mx.array(values.reshape(step.shape if whole else (stop - start, *step.shape[1:])))
