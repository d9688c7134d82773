"""The servers that most tests ask: one for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from g4convert.tests.conftest import Convert
from g4convert.tests.loaders.serving.running import Running, running


@pytest.fixture(scope="module")
def server(converted: Convert) -> Iterator[Running]:
    """The trained sample of E2B, at 4 bits."""
    with running(converted("e2b")) as found:
        yield found
