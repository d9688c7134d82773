"""A link, as messages have it -> what to read: a path, bytes from a `data:` URI, or, if allowed, from the network.

A conversation may come from a stranger. It reaches local paths and what stands in it; everything else needs a host that
the user has named.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from ...schemas.errors import MediaError, UsageError
from .source import Blob, Source

if TYPE_CHECKING:
    import httpx2

LOCALHOST = "localhost"
"""The host of `file:` URLs that name none (RFC 8089)."""

LARGEST_DOWNLOAD = 1 << 30
MOST_REDIRECTS = 5
SECONDS_TO_ANSWER = 30
LONGEST_PATH = 4096
LONGEST_NAME = 80

SCHEME = re.compile(r"(data|file|https?):|([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True)
class Reach:
    """What links may lead to.

    Attributes:
        folder: where relative paths begin.
        hosts: hosts of `http:`, `https:` and `file:` URLs; the last are `localhost` where they name none.
    """

    folder: Path = field(default_factory=Path)
    hosts: frozenset[str] = frozenset()


def resolve(link: str, reach: Reach) -> Source:
    """What a link leads to; a path is not looked at, a URL is fetched.

    Raises:
        UsageError: the URL's host is not one of `reach`, or its scheme is none that we know.
        MediaError: the URL is malformed, or cannot be fetched.
    """
    match = SCHEME.match(link)
    if match is None:
        return reach.folder / link
    scheme = (match[1] or match[2]).lower()
    if scheme == "data":
        return from_data_uri(link)
    if scheme not in ("file", "http", "https"):
        raise UsageError(f"takes no {scheme}: URL", where=shortened(link), fix="give a path, or a data: URI")
    _check_host(link, reach)
    return Path(unquote(urlsplit(link).path)) if scheme == "file" else _fetch(link, reach)


def from_data_uri(uri: str) -> Blob:
    """The bytes of `data:[type][;base64],...`.

    Raises:
        MediaError: it is cut off, or is not base64.
    """
    head, comma, body = uri.partition(",")
    if not comma:
        raise MediaError("the data: URI has no comma", where=shortened(uri), fix="write data:TYPE;base64,DATA")
    name = shortened(head)
    if head.lower().endswith(";base64"):
        return from_base64(unquote(body), name)
    return Blob(unquote_to_bytes(body), name)


def from_base64(text: str, name: str) -> Blob:
    """The bytes of base64, line breaks allowed.

    Raises:
        MediaError: the text is something else.
    """
    try:
        return Blob(base64.b64decode("".join(text.split()), validate=True), name)
    except (binascii.Error, ValueError) as error:
        raise MediaError(
            f"is not base64: {error}", where=name, fix="it may be cut off; encode the file again"
        ) from None


def base64_or_link(text: str, reach: Reach) -> Source:
    """OpenAI's `input_audio.data`, which is base64 there, and a path or URL to others."""
    name = shortened(text)
    if SCHEME.match(text):
        return resolve(text, reach)
    if len(text) > LONGEST_PATH:
        return from_base64(text, name)
    try:
        return from_base64(text, name)
    except MediaError:
        return resolve(text, reach)


def shortened(link: str) -> str:
    """A link as a message can show it."""
    return link if len(link) <= LONGEST_NAME else f"{link[:LONGEST_NAME]}..."


def _check_host(link: str, reach: Reach) -> None:
    try:
        parts = urlsplit(link)
        host = parts.hostname or (LOCALHOST if parts.scheme.lower() == "file" else "")
    except ValueError as error:
        raise MediaError(f"is no URL: {error}", where=shortened(link)) from None
    if host not in reach.hosts:
        raise UsageError(
            f"leads to the host {host or '(none)'}, which is not allowed",
            where=shortened(link),
            fix=f"download it yourself, or say --allow-host {host}",
        )


def _fetch(link: str, reach: Reach) -> Blob:
    """Download a file; a redirection counts as a link of its own."""
    import httpx2

    with httpx2.Client(timeout=SECONDS_TO_ANSWER) as client:
        for _ in range(MOST_REDIRECTS + 1):
            _check_host(link, reach)
            try:
                with client.stream("GET", link) as response:
                    if not response.has_redirect_location:
                        return Blob(_body(response, link), shortened(link))
                    link = urljoin(link, response.headers["location"])
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                what = f"cannot be fetched: {error or type(error).__name__}"
                raise MediaError(what, where=shortened(link), fix="check the address and the network") from None
    raise MediaError(f"redirects more than {MOST_REDIRECTS} times", where=shortened(link), fix="give its last address")


def _body(response: httpx2.Response, link: str) -> bytes:
    if not response.is_success:
        answer = f"{response.status_code} {response.reason_phrase}".strip()
        raise MediaError(f"the host answers {answer}", where=shortened(link), fix="check the address")
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > LARGEST_DOWNLOAD:
            raise MediaError(
                f"is larger than {LARGEST_DOWNLOAD} bytes", where=shortened(link), fix="download it yourself"
            )
    return bytes(body)
