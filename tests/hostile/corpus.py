"""The whole corpus: every table of breaks, by its kind."""

from __future__ import annotations

from . import configs, converted, headers, indexes, links, processors, programs, templates, tokenizers, values
from .breaks import Breaks

TABLES: dict[str, Breaks] = {
    "header": headers.BREAKS,
    "index": indexes.BREAKS,
    "config": configs.BREAKS,
    "processor": processors.BREAKS,
    "tokenizer": tokenizers.BREAKS,
    "template": templates.BREAKS,
    "link": links.BREAKS,
    "program": programs.BREAKS,
    "value": values.BREAKS,
}
CORPUS: Breaks = {f"{kind}: {name}": case for kind, table in TABLES.items() for name, case in table.items()}
CONVERTED: Breaks = {f"converted: {name}": case for name, case in converted.BREAKS.items()}
