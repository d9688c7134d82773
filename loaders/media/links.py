"""A link, as messages have it -> what to read: a path, bytes from a `data:` URI, or, if allowed, from the network.

A conversation may come from a stranger. It reaches local paths and what stands in it; everything else needs a host that
the user has named.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
        hosts: hosts of `http:`, `https:` and `file:` URLs, in any case; the last have `localhost` alone.
    """

    folder: Path = field(default_factory=Path)
    hosts: frozenset[str] = frozenset()


def resolve(link: str, reach: Reach) -> Source:
    """What a link leads to; a path is not looked at, a URL is fetched.

    Raises:
        UsageError: the URL's host is not one of `reach`, its scheme is none that we know, or it is not UTF-8.
        MediaError: the URL is malformed, or cannot be fetched, or a path is longer than any can be.
    """
    match = SCHEME.match(link)
    if match is None:
        return reach.folder / _checked_path(link)
    _check_characters(link)
    scheme = (match[1] or match[2]).lower()
    if scheme == "data":
        return from_data_uri(link)
    if scheme not in ("file", "http", "https"):
        raise UsageError(f"takes no {shortened(scheme)}: URL", where=shortened(link), fix="give a path, or a data: URI")
    _check_host(link, reach)
    return reach.folder / unquote(urlsplit(link).path) if scheme == "file" else _fetch(link, reach)


def _checked_path(link: str) -> str:
    if len(link) > LONGEST_PATH:
        raise MediaError(
            f"has {len(link)} characters, too many for a path",
            where=shortened(link),
            fix="write base64 as data:TYPE;base64,DATA",
        )
    return link


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


def _check_characters(link: str) -> None:
    """Bytes of the command line that are not UTF-8 come as halves of characters, which a path may have."""
    try:
        link.encode()
    except UnicodeEncodeError:
        raise UsageError("the URL is not UTF-8 text", where=shortened(link), fix="percent-encode it") from None


def _check_host(link: str, reach: Reach) -> None:
    host = _host(link)
    if host not in {allowed.lower() for allowed in reach.hosts}:
        raise UsageError(
            f"leads to the host {shortened(host)}, which is not allowed",
            where=shortened(link),
            fix=f"download it yourself, or say --allow-host {shortened(host)}",
        )


def _host(link: str) -> str:
    """The host that a URL names.

    Raises:
        MediaError: it is malformed, or names none.
        UsageError: it is a file of another host.
    """
    try:
        parts = urlsplit(link)
        host = parts.hostname or ""
    except ValueError as error:
        raise MediaError(f"is no URL: {error}", where=shortened(link), fix="check the address") from None
    if parts.scheme == "file" and host not in ("", LOCALHOST):
        raise UsageError("is a file of another host", where=shortened(link), fix="give a path")
    if not host and parts.scheme != "file":
        raise MediaError("is a URL without a host", where=shortened(link), fix="check the address")
    return host or LOCALHOST


def _fetch(link: str, reach: Reach) -> Blob:
    """Download a file; a redirection counts as a link of its own."""
    import httpx2

    with _faults(link):
        client = httpx2.Client(timeout=SECONDS_TO_ANSWER)
    with client:
        for _ in range(MOST_REDIRECTS + 1):
            _check_host(link, reach)
            found = _get(client, link)
            if isinstance(found, Blob):
                return found
            link = found
    raise MediaError(f"redirects more than {MOST_REDIRECTS} times", where=shortened(link), fix="give its last address")


def _get(client: httpx2.Client, link: str) -> Blob | str:
    """What is at an address, or the address that it redirects to."""
    with _faults(link), client.stream("GET", link) as response:
        if response.has_redirect_location:
            return urljoin(link, response.headers["location"])
        return Blob(_body(response, link), shortened(link))


@contextmanager
def _faults(link: str) -> Iterator[None]:
    """Turn what a network, its proxies and its names do wrong into a MediaError."""
    import httpx2

    try:
        yield
    # An ImportError is a SOCKS proxy without its package, an OSError a missing certificate file, a ValueError a
    # malformed proxy, host name or redirection.
    except (httpx2.HTTPError, httpx2.InvalidURL, ImportError, OSError, ValueError) as error:
        what = f"cannot be fetched: {str(error) or type(error).__name__}"
        raise MediaError(what, where=shortened(link), fix="check the address and the network") from None


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
