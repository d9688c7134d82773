"""What the Hub says of a model card's metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

LICENSES = ("apache-2.0", "bsd-3-clause", "cc-by-4.0", "gemma", "gpl-3.0", "llama3", "mit", "other", "unknown")
BLOCK = re.compile(r"^\s*---\r?\n(.*?)\r?\n---(\r?\n|$)", re.DOTALL)
MODEL_NAME = re.compile(r"[\w\-.]+(/[\w\-.]+)?", re.ASCII)


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a card, and what is merely missing."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def document(self) -> dict[str, list[dict[str, str]]]:
        """As the Hub's `validate-yaml` answers."""
        return {
            "errors": [{"message": message} for message in self.errors],
            "warnings": [{"message": message} for message in self.warnings],
        }


def judge(card: str) -> Verdict:
    """Check the metadata at the head of a README."""
    match = BLOCK.match(card)
    if not match:
        return Verdict(warnings=("empty or missing yaml metadata in repo card",))
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return Verdict(errors=(f"Invalid YAML: {error}",))
    if not isinstance(metadata, dict):
        return Verdict(errors=("YAML metadata should be a mapping",))
    return Verdict(errors=(*_license(metadata), *_base_models(metadata)))


def _license(metadata: dict[str, Any]) -> list[str]:
    known = metadata.get("license", LICENSES[0]) in LICENSES
    return [] if known else [f'"license" must be one of [{", ".join(LICENSES)}]']


def _base_models(metadata: dict[str, Any]) -> list[str]:
    named = metadata.get("base_model", [])
    models = named if isinstance(named, list) else [named]
    wrong = [model for model in models if not MODEL_NAME.fullmatch(str(model))]
    return [f'"base_model" with value "{model}" is not valid. Use a model id.' for model in wrong]
