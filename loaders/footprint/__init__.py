"""How much memory a model takes: what follows from its config and from how its weights are packed.

`estimate` is not imported here, for it brings mlx along, which a conversion does without.
"""

from .cache import ELEMENT, kv_cache_bytes
from .runtime import CPU_BFLOAT16, CPU_FLOAT32, METAL, Runtime
from .weights import Weight, Weights, resident_bytes

__all__ = [
    "CPU_BFLOAT16",
    "CPU_FLOAT32",
    "ELEMENT",
    "METAL",
    "Runtime",
    "Weight",
    "Weights",
    "kv_cache_bytes",
    "resident_bytes",
]
