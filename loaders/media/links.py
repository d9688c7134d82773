"""A link, as messages have it -> what to read: a path, bytes from a `data:` URI, or, if allowed, from the network.

A conversation may come from a stranger. It reaches local paths and what stands in it; everything else needs a host that
the user has named. What a server is sent reaches less: see `fence.py`.
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
from .source import IN_BYTES, Blob, Source

if TYPE_CHECKING:
    import httpx2

    from .fence import Fence

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
        fence: what bounds the links of strangers; it takes the place of `folder`, and of `localhost` for files.
    """

    folder: Path = field(default_factory=Path)
    hosts: frozenset[str] = frozenset()
    fence: Fence | None = None

    @property
    def names(self) -> frozenset[str]:
        """The hosts, in lower case."""
        return frozenset(host.lower() for host in self.hosts)


def resolve(link: str, reach: Reach) -> Source:
    """What a link leads to; a path is not looked at but inside a fence, a URL is fetched.

    Raises:
        UsageError: the URL's host is not one of `reach`, its scheme is none that we know, or it is not UTF-8; a path
            leads out of the fence.
        MediaError: the URL is malformed, or cannot be fetched, or a path is longer than any can be, or is none of a
            file inside the fence.
    """
    match = SCHEME.match(link)
    if match is None:
        return _local(_checked_path(link), link, reach)
    _check_characters(link)
    scheme = (match[1] or match[2]).lower()
    if scheme == "data":
        return from_data_uri(link)
    if scheme not in ("file", "http", "https"):
        raise UsageError(f"takes no {shortened(scheme)}: URL", where=shortened(link), fix="give a path, or a data: URI")
    if scheme != "file":
        _check_host(link, reach)
        return _fetch(link, reach)
    if reach.fence is None:
        _check_host(link, reach)
    _host(link)
    return _local(unquote(urlsplit(link).path), link, reach)


def _local(path: str, link: str, reach: Reach) -> Source:
    return reach.folder / path if reach.fence is None else reach.fence.read(path, shortened(link))


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
        if reach.fence is not None and not reach.fence.folders:
            raise  # no path is allowed, so none can be meant
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
    if host not in reach.names:
        name = shortened(host)
        fix = f"download it yourself, or say --allow-host {name}" if reach.fence is None else IN_BYTES
        raise UsageError(f"leads to the host {name}, which is not allowed", where=shortened(link), fix=fix)


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
    with _faults(link):
        client = _client(reach)
    with client:
        for _ in range(MOST_REDIRECTS + 1):
            _check_host(link, reach)
            found = _get(client, link, LARGEST_DOWNLOAD if reach.fence is None else reach.fence.largest)
            if isinstance(found, Blob):
                return found
            link = found
    raise MediaError(f"redirects more than {MOST_REDIRECTS} times", where=shortened(link), fix="give its last address")


def _client(reach: Reach) -> httpx2.Client:
    import httpx2

    return httpx2.Client(timeout=SECONDS_TO_ANSWER) if reach.fence is None else reach.fence.client(reach.names)


def _get(client: httpx2.Client, link: str, largest: int) -> Blob | str:
    """What is at an address, or the address that it redirects to."""
    with _faults(link), client.stream("GET", link) as response:
        if response.has_redirect_location:
            return urljoin(link, response.headers["location"])
        return Blob(_body(response, link, largest), shortened(link))


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


def _body(response: httpx2.Response, link: str, largest: int) -> bytes:
    if not response.is_success:
        answer = f"{response.status_code} {response.reason_phrase}".strip()
        raise MediaError(f"the host answers {answer}", where=shortened(link), fix="check the address")
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > largest:
            raise MediaError(f"is larger than {largest} bytes", where=shortened(link), fix="download it yourself")
    return bytes(body)
