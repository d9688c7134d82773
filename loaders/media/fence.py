"""What links of strangers may lead to: folders, and hosts at addresses that are nobody's home.

A name is resolved once, its addresses are checked, and the connection goes to the one that was checked: who answers
for the name cannot answer otherwise later. Nothing of the environment, a proxy for one, comes between.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2

from ...schemas.errors import MediaError, UsageError
from ...schemas.files import open_regular
from .source import IN_BYTES, Blob

if TYPE_CHECKING:
    import ssl

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Unicast addresses of the internet (RFC 4291), and those that carry an IPv4 address in their last 32 bits (RFC 6052).
UNICAST = ipaddress.IPv6Network("2000::/3")
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
IPV4_BITS = (1 << 32) - 1


@dataclass(frozen=True)
class Fence:
    """The bounds of links that come from strangers; what they name otherwise is refused.

    Attributes:
        folders: whose files may be read, links resolved; relative paths begin in the first.
        private: whether hosts may have addresses of this machine and of private networks.
        largest: most bytes of a file.
        seconds: what fetching one may take, redirections and all but the look-up of names included.
    """

    folders: tuple[Path, ...] = ()
    private: bool = False
    largest: int = 1 << 28
    seconds: float = 30.0

    def read(self, path: str, name: str) -> Blob:
        """A file inside the folders.

        Args:
            path: as the link has it.
            name: what to call it in messages; they say nothing of what is outside.

        Raises:
            UsageError: it is outside.
            MediaError: it is missing, no regular file, too large, or cannot be read.
        """
        file = self._inside(path, name)
        try:
            with open_regular(file) as stream:
                data = stream.read(self.largest + 1)
        except FileNotFoundError:
            raise MediaError("there is no such file", where=name, fix="check the path") from None
        except OSError as error:
            raise MediaError(f"cannot be opened: {error.strerror}", where=name, fix="give a readable file") from None
        if len(data) > self.largest:
            raise MediaError(f"is larger than {self.largest} bytes", where=name, fix="make it smaller")
        return Blob(data, name)

    def _inside(self, path: str, name: str) -> Path:
        """Where a path leads in the end.

        Raises:
            UsageError: out of the folders, or nowhere.
        """
        try:
            folders = [folder.resolve() for folder in self.folders]
            found = folders[0].joinpath(path).resolve() if folders else None
        except (OSError, RuntimeError, ValueError):  # a circle of links, a name that is too long, a zero in it
            found = None
        if found is None or not any(found.is_relative_to(folder) for folder in folders):
            raise UsageError("is a path outside of what is allowed", where=name, fix=IN_BYTES)
        return found

    def client(self, hosts: frozenset[str]) -> httpx2.Client:
        """What fetches from these hosts, within `seconds` from now.

        Args:
            hosts: in lower case.
        """
        guard = Guard(hosts, private=self.private, deadline=Deadline(self.seconds))
        return httpx2.Client(transport=_Transport(guard), timeout=self.seconds, trust_env=False)


class Deadline:
    """The end of a time that began when this was made.

    Args:
        seconds: how long it is.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def cut(self, timeout: float | None) -> float:
        """A timeout that does not reach beyond the end.

        Raises:
            httpcore2.ReadTimeout: the end is over.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout(f"it takes more than {self._seconds:g} seconds")
        return left if timeout is None else min(left, timeout)


class Guard(httpcore2.SyncBackend):
    """Connects to addresses that it has checked, and keeps to a deadline.

    Args:
        hosts: the names that may be connected to, in lower case.
        private: whether any address will do.
        deadline: of everything together.
    """

    def __init__(self, hosts: frozenset[str], *, private: bool, deadline: Deadline) -> None:
        self._hosts, self._private, self._deadline = hosts, private, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of a host that answers.

        Raises:
            httpcore2.ConnectError: there is none, or one of them is private.
        """
        fault: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in self._addresses(host, port):
            try:
                left = self._deadline.cut(timeout)
                stream = super().connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                fault = error
            else:
                return _Timed(stream, self._deadline)
        raise fault

    def connect_unix_socket(self, *_: object, **__: object) -> httpcore2.NetworkStream:
        """No link leads to one."""
        raise httpcore2.ConnectError("not allowed")

    def _addresses(self, host: str, port: int) -> list[str]:
        if host.lower().strip("[]") not in self._hosts:
            raise httpcore2.ConnectError(f"{host} is not allowed")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(str(error)) from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._private and not all(is_public(ipaddress.ip_address(address)) for address in addresses):
            raise httpcore2.ConnectError(f"{host} has an address of this machine or of a private network")
        return addresses


class _Timed(httpcore2.NetworkStream):
    """A connection with a deadline: many short waits are one long one."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.cut(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.cut(timeout))
        return _Timed(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Transport(httpx2.HTTPTransport):
    """httpx2's own, with connections from a backend of ours, for which its constructor has no argument."""

    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._pool = httpcore2.ConnectionPool(ssl_context=httpx2.create_ssl_context(), network_backend=backend)


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet, and so is the IPv4 address that it may carry."""
    if isinstance(address, ipaddress.IPv6Address):
        if (carried := _carried(address)) is not None:
            return is_public(carried)
        if address not in UNICAST:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 address are meant for, if there is one."""
    if address in TRANSLATED:
        return ipaddress.IPv4Address(int(address) & IPV4_BITS)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
