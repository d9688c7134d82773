"""Links of strangers: tries to reach other files and addresses are refused, and what is allowed still works."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from g4convert.loaders.media import Blob, Reach, fence
from g4convert.loaders.media.fence import Fence, is_public
from g4convert.loaders.media.links import base64_or_link, resolve
from g4convert.schemas.errors import MediaError, UsageError
from g4convert.tests.loaders.media.web import Answer, Web, web

DATA = bytes(range(256))
PUBLIC = "93.184.215.14"
NAME = "media.example"


def refused(link: str, reach: Reach) -> str:
    """The one line that says why a link leads to nothing."""
    with pytest.raises((MediaError, UsageError)) as caught:
        resolve(link, reach)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is allowed, beside one that is not."""
    for name in ("allowed", "allowed-not", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(DATA)
    inside = tmp_path / "allowed"
    (inside / "sub").mkdir()
    (inside / "sub" / "y z.png").write_bytes(DATA)
    (inside / "friend.png").symlink_to(inside / "x.png")
    (inside / "spy.png").symlink_to(tmp_path / "secret" / "x.png")
    (inside / "spies").symlink_to(tmp_path / "secret")
    (inside / "circle").symlink_to(inside / "circle")
    (inside / "zero").symlink_to("/dev/zero")
    os.mkfifo(inside / "pipe")
    (inside / "locked").write_bytes(DATA)
    return inside


@pytest.mark.parametrize(
    "link",
    [
        "{0}/x.png",
        "x.png",
        "sub/y z.png",
        "sub/../x.png",
        "friend.png",
        "file://{0}/x.png",
        "file://localhost{0}/sub/y%20z.png",
        "FILE:{0}/x.png",
        "file:x.png",
        "../allowed/x.png",
    ],
)
def test_a_file_of_an_allowed_folder_is_read(link: str, folder: Path) -> None:
    found = resolve(link.format(folder), Reach(fence=Fence((folder,))))

    assert isinstance(found, Blob)
    assert found.data == DATA


FILES = [
    "/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/environ",
    "/proc/self/root/etc/passwd",
    "../secret/x.png",
    "{0}/../secret/x.png",
    "{0}-not/x.png",
    "sub/../../secret/x.png",
    "spy.png",
    "spies/x.png",
    "circle",
    "zero",
    "",
    ".",
    "..",
    "~/x.png",
    "x.png\0",
    "a" * 4000,
    "file:///etc/passwd",
    "file://{0}/../secret/x.png",
    "file://{0}/%2e%2e/secret/x.png",
    "file://{0}/..%2fsecret%2fx.png",
    "file:///dev/zero",
    "file:///proc/self/environ",
    "file://localhost/etc/passwd",
    "file:../secret/x.png",
    "file://evil/{0}/x.png",
    "file://127.0.0.1{0}/x.png",
    " file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://{0}/x%00.png",
]


@pytest.mark.parametrize("link", FILES)
def test_no_link_leads_out_of_the_folder(link: str, folder: Path) -> None:
    message = refused(link.format(folder), Reach(fence=Fence((folder,)), hosts=frozenset({"localhost", "evil"})))

    assert str(folder.parent / "secret") not in message.replace(link.format(folder), "")


@pytest.mark.parametrize("link", ["pipe", "sub", "missing.png", "{0}/missing/x.png"])
def test_what_is_no_file_is_one_line(link: str, folder: Path) -> None:
    assert refused(link.format(folder), Reach(fence=Fence((folder,))))


def test_a_file_that_is_there_is_refused_as_one_that_is_not(folder: Path) -> None:
    reach = Reach(fence=Fence((folder,)))

    there, missing = refused("../secret/x.png", reach), refused("../secret/y.png", reach)

    assert there.replace("x.png", "y.png") == missing


@pytest.mark.parametrize("link", ["x.png", "{0}/x.png", "file://{0}/x.png", "", ".", "spy.png"])
def test_without_folders_no_file_is_read(link: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    assert "is a path outside of what is allowed" in refused(link.format(folder), Reach(fence=Fence()))


def test_a_second_folder_is_as_good(folder: Path) -> None:
    other = folder.parent / "secret"

    assert resolve(str(other / "x.png"), Reach(fence=Fence((folder, other))))
    assert resolve("spy.png", Reach(fence=Fence((folder, other))))


def test_a_large_file_is_not_held(folder: Path) -> None:
    assert resolve("x.png", Reach(fence=Fence((folder,), largest=len(DATA))))
    assert "is larger than 255 bytes" in refused("x.png", Reach(fence=Fence((folder,), largest=len(DATA) - 1)))


def test_what_is_not_base64_is_no_path_where_none_is_allowed(folder: Path) -> None:
    with pytest.raises(MediaError, match="is not base64"):
        base64_or_link("x.png", Reach(fence=Fence()))
    assert base64_or_link("x.png", Reach(fence=Fence((folder,)))) == Blob(DATA, "x.png")


def test_without_a_fence_paths_are_as_they_were(folder: Path) -> None:
    assert resolve("../secret/x.png", Reach(folder)) == folder / "../secret/x.png"


# Addresses

HOME = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.0.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
    "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001:db8::1", "2001:0:1:2::1", "2002:7f00:1::1", "2002:a00:1::1",
    "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "ff0e::1", "4000::1",
]  # fmt: skip
WORLD = ["1.1.1.1", PUBLIC, "172.32.0.1", "192.169.0.1", "11.0.0.1", "2606:4700:4700::1111", "::ffff:1.1.1.1",
         "64:ff9b::101:101", "2002:101:101::1"]  # fmt: skip


@pytest.mark.parametrize("address", HOME)
def test_an_address_that_is_not_of_the_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", WORLD)
def test_an_address_of_the_internet(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@dataclass
class World:
    """Names, and one machine that stands behind every address.

    Attributes:
        names: the addresses of each, one list a look-up; the last list stays.
        machine: where it really is.
        connected: the addresses and ports that were connected to.
        looked_up: the names that were looked up.
    """

    machine: Web
    names: dict[str, list[list[str]]] = field(default_factory=dict)
    connected: list[tuple[str, int]] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)

    @property
    def answers(self) -> dict[str, Answer]:
        """Status, headers and body by path."""
        return self.machine.answers

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Host and path of each request."""
        return list(zip(self.machine.called, self.machine.asked, strict=True))

    def look_up(self, host: str, port: int, **_: Any) -> list[Any]:
        self.looked_up.append(host)
        if host not in self.names:
            numeric = socket.getaddrinfo.__wrapped__  # type: ignore[attr-defined]
            return list(numeric(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        lists = self.names[host]
        found = lists.pop(0) if len(lists) > 1 else lists[0]
        return [(0, 0, 0, "", (address, port)) for address in found]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with web() as machine:
        made = World(machine)
        made.answers["/x.png"] = (200, {}, DATA)
        change_the_world(made, monkeypatch)
        yield made


def change_the_world(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let names and connections lead into it."""
    connect, numeric = httpcore2.SyncBackend.connect_tcp, socket.getaddrinfo

    def connect_here(self: httpcore2.SyncBackend, host: str, port: int, *rest: Any) -> httpcore2.NetworkStream:
        made.connected.append((host, port))
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", numeric)
            return connect(self, "127.0.0.1", made.machine.port, *rest)

    def look_up(*arguments: Any, **options: Any) -> list[Any]:
        return made.look_up(*arguments, **options)

    look_up.__wrapped__ = numeric  # type: ignore[attr-defined]
    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


def reach(*hosts: str, **options: Any) -> Reach:
    return Reach(hosts=frozenset(hosts), fence=Fence(**options))


def test_an_allowed_host_is_asked_at_the_address_that_was_checked(world: World) -> None:
    world.names[NAME] = [[PUBLIC]]

    found = resolve(f"http://{NAME}/x.png", reach(NAME))

    assert isinstance(found, Blob)
    assert found.data == DATA
    assert world.connected == [(PUBLIC, 80)]
    assert world.asked == [(NAME, "/x.png")]


def test_the_next_address_is_tried_when_one_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.names[NAME] = [["1.1.1.1", PUBLIC]]
    connect: Any = httpcore2.SyncBackend.connect_tcp

    def fussy(self: httpcore2.SyncBackend, host: str, *rest: Any) -> httpcore2.NetworkStream:
        if host == "1.1.1.1":
            raise httpcore2.ConnectError("nobody there")
        found: httpcore2.NetworkStream = connect(self, host, *rest)
        return found

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", fussy)

    assert resolve(f"http://{NAME}/x.png", reach(NAME))
    assert world.connected == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "017700000001", "0",
        "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "2852039166", "100.64.0.1",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[fe80::1]",
        "[fd00::1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::1]",
    ],
)  # fmt: skip
def test_an_address_at_home_is_not_connected_to_even_if_it_is_allowed(host: str, world: World) -> None:
    message = refused(f"http://{host}:{world.machine.port}/x.png", reach(host.strip("[]")))

    assert "of this machine or of a private network" in message or "Invalid IPv4 address" in message
    assert world.connected == []


@pytest.mark.parametrize("address", HOME)
def test_a_name_of_an_address_at_home_is_not_connected_to(address: str, world: World) -> None:
    world.names[NAME] = [[address]]

    assert "of this machine or of a private network" in refused(f"http://{NAME}/x.png", reach(NAME))
    assert world.connected == []


def test_one_address_at_home_among_others_is_enough(world: World) -> None:
    world.names[NAME] = [[PUBLIC, "10.0.0.1"]]

    assert "of this machine or of a private network" in refused(f"http://{NAME}/x.png", reach(NAME))
    assert world.connected == []


def test_a_name_that_leads_elsewhere_the_second_time_is_looked_up_once(world: World) -> None:
    world.names[NAME] = [[PUBLIC], ["127.0.0.1"]]

    assert resolve(f"http://{NAME}/x.png", reach(NAME))
    assert world.looked_up == [NAME]
    assert world.connected == [(PUBLIC, 80)]


def test_a_name_that_leads_home_for_a_redirection_is_caught(world: World) -> None:
    world.names[NAME] = [[PUBLIC], ["127.0.0.1"]]
    world.answers["/a"] = (302, {"Location": f"http://{NAME}:8080/x.png", "Connection": "close"}, b"")

    assert "of this machine or of a private network" in refused(f"http://{NAME}/a", reach(NAME))
    assert world.connected == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/x.png", "http://[::1]/x.png", "http://localhost/x.png", "//localhost/x.png",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data", "http://inside.example/x.png",
        "http://media.example@inside.example/",
        "ftp://media.example/x.png", "data:,x", "http://other.example/x.png",
    ],
)  # fmt: skip
def test_a_redirection_leads_nowhere_else(location: str, world: World) -> None:
    world.names |= {NAME: [[PUBLIC]], "inside.example": [["10.0.0.1"]], "localhost": [["127.0.0.1"]]}
    world.answers["/a"] = (302, {"Location": location}, b"")

    assert refused(
        f"http://{NAME}/a", reach(NAME, "inside.example", "localhost", "127.0.0.1", "::1", "169.254.169.254")
    )
    assert world.connected == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    "link",
    [
        "http://localhost/x.png", "http://evil.example/x.png", "http://media.example@evil.example/x.png",
        "http://media.example:80@evil.example/x.png", "http://evil.example#@media.example/x.png",
        "http://evil.example\\@media.example/x.png", "http://media.example\\@evil.example/x.png",
        "http://media.example.evil.example/x.png", "http://media.example./x.png", "http://media。example/x.png",
        "http://\uff4dedia.example/x.png", "http://media.example%2f@evil.example/x.png",
        "http://evil.example?media.example",
        "http://media%2eexample/x.png", "https://evil.example/x.png", "HTTP://EVIL.EXAMPLE/x.png",
        "ftp://media.example/x.png", "gopher://media.example/x", "s3://media.example/x", "http://media.example:99999/x",
        "http://media.example:x/", "http://", "http:///x.png", "http:x.png", "javascript://media.example/x",
        "http://media.example\t.evil.example/x", "http://media.example\r\nHost: evil/x",
    ],
)  # fmt: skip
def test_nobody_else_is_asked(link: str, world: World) -> None:
    world.names |= {NAME: [["10.0.0.1"]], "evil.example": [[PUBLIC]]}

    assert refused(link, reach(NAME))
    assert world.connected == []


def test_the_connection_checks_the_name_again(world: World) -> None:
    """Whatever two parsers of URLs disagree about, the name that is connected to is one that is allowed."""
    guard = fence.Guard(frozenset({NAME}), private=False, deadline=fence.Deadline(1))

    with pytest.raises(httpcore2.ConnectError, match=r"evil\.example is not allowed"):
        guard.connect_tcp("evil.example", 80)
    with pytest.raises(httpcore2.ConnectError):
        guard.connect_unix_socket("/run/docker.sock")
    assert world.looked_up == []


def test_who_runs_the_server_may_allow_addresses_at_home(world: World) -> None:
    world.names[NAME] = [["10.0.0.1"]]

    assert resolve(f"http://{NAME}/x.png", reach(NAME, private=True))
    assert world.connected == [("10.0.0.1", 80)]


def test_a_proxy_of_the_environment_is_not_used(world: World) -> None:
    """The fixture names one, at which nobody listens."""
    world.names[NAME] = [[PUBLIC]]

    assert resolve(f"http://{NAME}/x.png", reach(NAME))


def test_a_huge_body_is_not_held(world: World) -> None:
    world.names[NAME] = [[PUBLIC]]
    link = f"http://{NAME}/x.png"

    assert resolve(link, reach(NAME, largest=len(DATA)))
    assert "is larger than 255 bytes" in refused(link, reach(NAME, largest=len(DATA) - 1))


Talk = Callable[[socket.socket], None]


@pytest.fixture
def host() -> Iterator[Callable[[Talk], int]]:
    """`host(talk)` listens, has `talk` answer the first that connects, and gives the port."""
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def listen(talk: Talk) -> int:
        listener = socket.create_server(("127.0.0.1", 0))

        def answer() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    talk(connection)
            except OSError:
                pass

        listeners.append(listener)
        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield listen
    for listener, thread in zip(listeners, threads, strict=True):
        thread.join()
        listener.close()


HEAD = b"HTTP/1.1 200 OK\r\n"


def drip(connection: socket.socket, start: bytes, piece: bytes) -> None:
    """Send a little, again and again, until nobody takes it."""
    connection.sendall(start)
    while True:
        connection.sendall(piece)
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"H"),
        (HEAD, b"X-A: b\r\n"),
        (HEAD + b"Content-Length: 1000000000\r\n\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"\r\n", b"x"),
    ],
)
def test_many_short_waits_end_as_one_long_one_does(start: bytes, piece: bytes, host: Callable[[Talk], int]) -> None:
    port = host(lambda connection: drip(connection, start, piece))

    message = refused(f"http://127.0.0.1:{port}/x", reach("127.0.0.1", private=True, seconds=0.3))

    assert "cannot be fetched: " in message


def test_no_wait_reaches_beyond_the_end() -> None:
    long, over = fence.Deadline(100), fence.Deadline(0)

    assert long.cut(5) == 5
    assert 99 < long.cut(None) <= 100
    assert 99 < long.cut(1000) <= 100
    for timeout in (None, 5):
        with pytest.raises(httpcore2.ReadTimeout, match="it takes more than 0 seconds"):
            over.cut(timeout)


def test_who_says_nothing_is_not_waited_for(host: Callable[[Talk], int]) -> None:
    def listen(connection: socket.socket) -> None:
        while connection.recv(1000):
            pass

    port = host(listen)

    assert "cannot be fetched" in refused(f"http://127.0.0.1:{port}/x", reach("127.0.0.1", private=True, seconds=0.2))


def test_a_circle_of_redirections_ends(world: World) -> None:
    world.names[NAME] = [[PUBLIC]]
    world.answers["/a"] = (302, {"Location": "/a"}, b"")

    assert "redirects more than 5 times" in refused(f"http://{NAME}/a", reach(NAME))


@pytest.mark.parametrize("broken", ["_addresses", "is_public"])
def test_a_guard_that_does_not_look_would_show(broken: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.names[NAME] = [["127.0.0.1"]]
    if broken == "is_public":
        monkeypatch.setattr(fence, "is_public", lambda _: True)
    else:
        monkeypatch.setattr(fence.Guard, "_addresses", lambda self, host, port: [host])

    assert resolve(f"http://{NAME}/x.png", reach(NAME))
    assert len(world.connected) == 1
