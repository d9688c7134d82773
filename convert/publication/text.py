"""What the command line prints about a publication."""

from __future__ import annotations

from typing import Any

from ..verification import figures
from ..wording import count, size, table
from .run import Publication


def dry_run(publication: Publication) -> str:
    """Every file with its size, and the card."""
    sizes = publication.sizes
    rows = [(name, f"{nbytes:,} bytes") for name, nbytes in sizes.items()]
    listing = "\n".join(table([*rows, ("together", f"{sum(sizes.values()):,} bytes")]))
    return f"{figures.verdict(publication.verification)}\n\n{listing}\n\n{publication.card}"


def uploaded(publication: Publication) -> str:
    """Where it is."""
    total = f"{count(len(publication.files), 'file')}, {size(sum(publication.sizes.values()))}"
    return f"{publication.url}\n{total}; names, sizes and digests there are those here."


def as_json(publication: Publication) -> dict[str, Any]:
    """The same as one document."""
    return {
        "url": publication.url,
        "files": dict(publication.sizes),
        "card": publication.card,
        "verification": publication.verification.to_dict(),
    }
