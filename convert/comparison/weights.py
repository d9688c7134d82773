"""One weight, as both sides hold it: equal, the same values in another form, or other values."""

from __future__ import annotations

from ..families.rules import Role
from .distance import Distance, distance, same_entries, same_rows
from .documents import SIDES
from .holdings import Holding
from .outcome import Difference, Severity
from .pair import Pair

MISSHAPEN = "not what config.json of {which} calls for: {which} does not load"
MISREAD = "the same bytes, not what config.json of {which} calls for: {which} does not load, or loads noise"
ANOTHER_SHAPE = "the models are of another architecture"
SAME_VALUES = "the same values, stored otherwise"
NOT_NUMBERS = "{which} holds NaN or infinity"
CAST = "other values; those of {finer}, rounded to {dtype}, are those of {side}"
OTHER = "other values"
ROUNDED = "other values, no further apart than rounding leaves them"
FURTHER = "other values, further apart than rounding explains"
EFFECTS = {
    Role.ROUTER: "; they decide which experts a token goes to",
    Role.CLIP_BOUND: "; the tower clips its activations there",
}


def weight_difference(key: str, one: Holding, other: Holding, pair: Pair) -> Difference | None:
    """Compare a weight that both sides hold."""
    if one.rows is None or other.rows is None or one.rows.shape != other.rows.shape:
        return _unreadable(key, one, other, pair)
    if one.form == other.form and same_rows(one.rows, other.rows, pair.files):
        if not one.is_encoded or same_entries(one.entries, other.entries, pair.files):
            return None
        return pair.difference(key, one.form, other.form, SAME_VALUES, Severity.FORM)
    found = distance(one.rows, other.rows, pair.files)
    if not found.differing:
        return pair.difference(key, one.form, other.form, SAME_VALUES, Severity.FORM, **found.figures)
    meaning = _cause(found, one, other) + EFFECTS.get(one.role, "")
    return pair.difference(key, one.form, other.form, meaning, **found.figures)


def _cause(found: Distance, one: Holding, other: Holding) -> str:
    """What unequal values may come from."""
    if broken := [side for side, count in zip(SIDES, found.not_numbers, strict=True) if count]:
        return NOT_NUMBERS.format(which=" and ".join(broken))
    for unrounded, held, side, finer in zip(found.unrounded, (one, other), SIDES, reversed(SIDES), strict=True):
        if unrounded == 0:
            return CAST.format(finer=finer, dtype=held.form, side=side)
    if found.beyond is None:
        return OTHER
    return FURTHER if found.beyond else ROUNDED


def _unreadable(key: str, one: Holding, other: Holding, pair: Pair) -> Difference | None:
    """Shapes or packings that are not those that a config calls for, on one side or both."""
    which = " and ".join(side for side, held in zip(SIDES, (one, other), strict=True) if held.rows is None)
    same = same_entries(one.entries, other.entries, pair.files)
    if same and one.form == other.form:
        return None
    meaning = MISREAD if same else MISSHAPEN if which else ANOTHER_SHAPE
    return pair.difference(key, one.with_shape, other.with_shape, meaning.format(which=which))
