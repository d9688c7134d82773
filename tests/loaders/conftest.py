"""What several tests of the loader need."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest


@pytest.fixture
def on_the_cpu() -> Iterator[None]:
    """Mlx computes on the CPU, whatever else there is."""
    before = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    yield
    mx.set_default_device(before)
