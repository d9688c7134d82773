"""What each architecture is made of, as data."""

from __future__ import annotations

from collections.abc import Mapping

from ...loaders.config import GEMMA4, UNIFIED
from .embedders import EMBEDDER_TABLES, PATCH_TABLES
from .rules import Table
from .text import TEXT_TABLES
from .towers import TOWER_TABLES

FAMILIES: Mapping[str, tuple[Table, ...]] = {
    GEMMA4: (*TEXT_TABLES, *TOWER_TABLES, *EMBEDDER_TABLES),
    UNIFIED: (*TEXT_TABLES, *PATCH_TABLES, *EMBEDDER_TABLES),
}
