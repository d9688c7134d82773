"""`tokenizer.json` and `tokenizer_config.json`: is text cut into other tokens, or are others special?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, zip_longest
from typing import Any, Self

from ...loaders.template import TOKENIZER_CONFIG, special_tokens
from ...loaders.tokenizer import LARGEST_TOKENIZER, TOKENIZER_FILE
from ..verification.listing import GONE, Path, differences
from ..verification.reading import same_files
from ..wording import count
from .documents import document_differences
from .meanings import SPECIAL_LISTS, SPELLED
from .outcome import Difference, Severity
from .side import Side, read_object

VOCABULARY, MERGES, ADDED = "$.model.vocab", "$.model.merges", "$.added_tokens"
# Tokens of many that are named.
EXAMPLES = 8

ONLY_TOKENS = "tokens that one vocabulary alone has: text that holds them is cut otherwise"
RENUMBERED = "tokens with another number: the model reads and writes others in their place"
ONLY_MERGES = "merges that one side alone has: text is cut into tokens otherwise"
REORDERED = "merges in another order: text is cut into tokens otherwise"
ONLY_ADDED = "tokens that one side alone matches as a whole"
FLAGS = "the token's number, how it is matched, and whether answers leave it out"
NO_TOKEN = "neither puts a token around a text"
SAME_SPECIAL = "named in another place; the same tokens are special"

Json = Mapping[str, Any]
Merge = tuple[str, ...]


def tokenizer_differences(a: Side, b: Side) -> Iterator[Difference]:
    """Compare `tokenizer.json`, where both sides have one."""
    files = [side.files[TOKENIZER_FILE] for side in (a, b) if TOKENIZER_FILE in side.files]
    if len(files) < 2 or same_files(*files):
        return
    document_a, document_b = (read_object(file, LARGEST_TOKENIZER) for file in files)
    found = list(_differences(_Parts.of(document_a), _Parts.of(document_b)))
    if not found and any(differences(document_a, document_b)):
        a_size, b_size = (count(file.stat().st_size, "byte") for file in files)
        yield Difference(TOKENIZER_FILE, "", a_size, b_size, SPELLED, Severity.FORM)
    yield from found


def _differences(a: _Parts, b: _Parts) -> Iterator[Difference]:
    yield from _vocabulary(a.vocabulary, b.vocabulary)
    yield from _merges(a.merges, b.merges)
    yield from _added(a.added, b.added)
    yield from document_differences(TOKENIZER_FILE, a.rest, b.rest, partial(_no_token, a.rest, b.rest))


def tokenizer_config_differences(a: Side, b: Side) -> Iterator[Difference]:
    """Compare `tokenizer_config.json` without the chat template, where both sides have one."""
    if TOKENIZER_CONFIG not in a.files or TOKENIZER_CONFIG not in b.files:
        return
    one, other = (
        {key: value for key, value in side.tokenizer_config.items() if key != "chat_template"} for side in (a, b)
    )
    yield from document_differences(TOKENIZER_CONFIG, one, other, partial(_same_tokens, one, other))


@dataclass(frozen=True)
class _Parts:
    """A `tokenizer.json`, its long lists apart; the merges are spelled in two ways."""

    vocabulary: Mapping[str, int]
    merges: tuple[Merge, ...]
    added: Mapping[str, Json]
    rest: Json

    @classmethod
    def of(cls, document: Json) -> Self:
        model = document.get("model")
        model = dict(model) if isinstance(model, Mapping) else {}
        rest = {key: value for key, value in document.items() if key not in ("model", "added_tokens")}
        vocabulary = model.pop("vocab") if isinstance(model.get("vocab"), Mapping) else {}
        merges = model.pop("merges") if isinstance(model.get("merges"), list) else []
        listed = document.get("added_tokens")
        added = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
        return cls(
            vocabulary,
            tuple(map(_merge, merges)),
            {str(entry.get("content")): entry for entry in added},
            {**rest, "model": model},
        )


def _merge(entry: Any) -> Merge:
    return tuple(map(str, entry)) if isinstance(entry, list) else tuple(str(entry).split(" "))


def _vocabulary(a: Mapping[str, int], b: Mapping[str, int]) -> Iterator[Difference]:
    yield from _only(VOCABULARY, ONLY_TOKENS, *_left(a, b))
    moved = [token for token in a if token in b and a[token] != b[token]]
    if moved:
        one, other = ({token: side[token] for token in moved[:EXAMPLES]} for side in (a, b))
        yield _difference(VOCABULARY, one, other, RENUMBERED, tokens=len(moved))


def _merges(a: tuple[Merge, ...], b: tuple[Merge, ...]) -> Iterator[Difference]:
    if a == b:
        return
    ranks = ({" ".join(merge): rank for rank, merge in enumerate(side)} for side in (a, b))
    only_a, only_b = _left(*ranks)
    if only_a or only_b:
        yield from _only(MERGES, ONLY_MERGES, only_a, only_b)
        return
    places = enumerate(zip_longest(a, b, fillvalue=None))
    place, pair = next((place, pair) for place, pair in places if pair[0] != pair[1])
    one, other = (GONE if merge is None else " ".join(merge) for merge in pair)
    yield _difference(f"{MERGES}[{place}]", one, other, REORDERED)


def _added(a: Mapping[str, Json], b: Mapping[str, Json]) -> Iterator[Difference]:
    numbers = ({token: entry.get("id") for token, entry in side.items()} for side in (a, b))
    yield from _only(ADDED, ONLY_ADDED, *_left(*numbers))
    for token in (token for token in a if token in b):
        changed = sorted(key for key in a[token].keys() | b[token].keys() if a[token].get(key) != b[token].get(key))
        if changed:
            one, other = ({key: side[token].get(key) for key in changed} for side in (a, b))
            yield _difference(f"{ADDED}[{token!r}]", one, other, FLAGS)


def _left(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Json, Json]:
    """What either has alone."""
    return {key: a[key] for key in a if key not in b}, {key: b[key] for key in b if key not in a}


def _only(where: str, meaning: str, a: Json, b: Json) -> Iterator[Difference]:
    if a or b:
        yield _difference(where, _first(a), _first(b), meaning, only_a=len(a), only_b=len(b))


def _first(entries: Json) -> Any:
    return dict(islice(entries.items(), EXAMPLES)) or GONE


def _difference(where: str, a: Any, b: Any, meaning: str, **figures: int) -> Difference:
    return Difference(TOKENIZER_FILE, where, a, b, meaning, Severity.ANSWERS, figures)


def _no_token(a: Json, b: Json, path: Path) -> str | None:
    """A post-processor that puts nothing around a text is as none."""
    neither = not any(_put_around(side.get("post_processor")) for side in (a, b))
    return NO_TOKEN if path[0] == "post_processor" and neither else None


def _put_around(processor: Any) -> bool:
    """Whether a post-processor does more than to hand on one text, or two."""
    match processor:
        case None:
            return False
        case {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A"}}],
            "pair": [{"Sequence": {"id": "A"}}, {"Sequence": {"id": "B"}}],
        }:
            return False
    return True


def _same_tokens(a: Json, b: Json, path: Path) -> str | None:
    """Special tokens may be objects, and may be listed under several keys."""
    key = str(path[0])
    one, other = special_tokens(a), special_tokens(b)
    if key in one and one.get(key) == other.get(key):
        return SPELLED
    return SAME_SPECIAL if key in SPECIAL_LISTS and _special(a) == _special(b) else None


def _special(document: Json) -> set[str]:
    """Every token that a tokenizer's config calls special."""
    lists = (document.get(key) for key in SPECIAL_LISTS)
    named = (list(value.values()) if isinstance(value, Mapping) else value for value in lists)
    listed = chain.from_iterable(value for value in named if isinstance(value, list))
    texts = (token.get("content") if isinstance(token, Mapping) else token for token in listed)
    return {*special_tokens(document).values(), *(text for text in texts if isinstance(text, str))}
