"""Links: paths as they are, `data:` as it says, and nothing from a host that the user has not named."""

from __future__ import annotations

import base64
import gzip
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from g4convert.loaders.media import Blob, Reach, links
from g4convert.loaders.media.links import base64_or_link, resolve
from g4convert.schemas.errors import G4ConvertError, MediaError, UsageError
from g4convert.tests.loaders.media.web import Answer, Web, web
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path("/a/folder")
NOWHERE = Reach(folder=FOLDER)
DATA = bytes(range(256))
ENCODED = base64.b64encode(DATA).decode()


def refused(link: str, reach: Reach = NOWHERE, error: type[G4ConvertError] = UsageError) -> str:
    """The one line that says why a link leads to nothing."""
    with pytest.raises(error) as caught:
        resolve(link, reach)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.fix
    return message


@pytest.mark.parametrize(
    "link",
    [
        "x.png",
        "sub/x.png",
        "../x.png",
        "a:b.png",
        "C:\\x.png",
        "1:2",
        "dates: 3/4",
        "~/x.png",
        "x.png?a=b#c",
        "",
        "ä%20",
    ],
)
def test_what_is_no_url_is_a_path_in_the_folder(link: str) -> None:
    assert resolve(link, NOWHERE) == FOLDER / link


def test_an_absolute_path_is_taken_as_it_is() -> None:
    assert resolve("/b/a:b.png", NOWHERE) == Path("/b/a:b.png")


@pytest.mark.parametrize(
    ("uri", "data"),
    [
        (f"data:image/png;base64,{ENCODED}", DATA),
        (f"data:;base64,{ENCODED}", DATA),
        (f"DATA:IMAGE/PNG;BASE64,{ENCODED}", DATA),
        (f"data:image/png;charset=x;base64,{base64.encodebytes(DATA).decode()}", DATA),
        (f"data:image/png;base64,{quote(ENCODED, safe='')}", DATA),
        (f"data:image/png,{quote(DATA)}", DATA),
        ("data:,a%20b,c+d", b"a b,c+d"),
        ("data:text/plain,%zz", b"%zz"),
        ("data:,", b""),
    ],
)
def test_a_data_uri_is_the_bytes_in_it(uri: str, data: bytes) -> None:
    source = resolve(uri, NOWHERE)

    assert isinstance(source, Blob)
    assert source.data == data
    assert source.name == uri.partition(",")[0]


@given(data=st.binary(max_size=200), encode=st.booleans())
def test_every_data_uri_comes_back(data: bytes, encode: bool) -> None:
    uri = f"data:x/y;base64,{base64.b64encode(data).decode()}" if encode else f"data:x/y,{quote(data)}"

    assert resolve(uri, NOWHERE) == Blob(data, uri.partition(",")[0])


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("data:image/png;base64", "the data: URI has no comma"),
        (f"data:image/png;base64,{ENCODED[:-3]}", "is not base64: "),
        (f"data:image/png;base64,{ENCODED}!", "is not base64: "),
        ("data:image/png;base64,ü", "is not base64: "),
    ],
)
def test_a_damaged_data_uri_is_one_line(uri: str, message: str) -> None:
    assert refused(uri, error=MediaError).startswith(f"{uri.partition(',')[0]}: {message}")


def test_base64_may_be_a_path_where_openai_has_base64() -> None:
    path = base64_or_link("a clip.wav", NOWHERE)
    blob = base64_or_link(ENCODED, NOWHERE)

    assert path == FOLDER / "a clip.wav"
    assert isinstance(blob, Blob)
    assert blob.data == DATA


def test_base64_that_is_too_long_for_a_path_is_not_looked_for() -> None:
    with pytest.raises(MediaError, match=r"AAAA\.\.\.: is not base64"):
        base64_or_link("A" * 5001, NOWHERE)


@pytest.mark.parametrize("link", ["http://host/x", "https://host:80/x", "HTTP://u:p@HOST/x", "http://HOST./../x"])
def test_a_host_that_was_not_named_is_not_asked(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_fetch", None)

    for hosts in ((), ("other.host",), ("ost",), ("host.evil",), ("localhost",)):
        message = refused(link, Reach(hosts=frozenset(hosts)))
        assert "leads to the host host" in message
        assert "--allow-host host" in message


@pytest.mark.parametrize(
    ("link", "host"),
    [
        ("http://allowed@evil/x", "evil"),
        ("http://allowed:80@evil/x", "evil"),
        ("http://evil#@allowed/x", "evil"),
        ("http://evil?@allowed/x", "evil"),
        ("http://evil/@allowed/x", "evil"),
        ("http://allowed.evil/x", "allowed.evil"),
        ("http://allowed\\@evil/x", "evil"),
        ("http://allowed%2f@evil", "evil"),
    ],
)
def test_a_host_cannot_dress_up_as_another(link: str, host: str) -> None:
    assert f"leads to the host {host}," in refused(link, Reach(hosts=frozenset({"allowed"})))


@pytest.mark.parametrize("host", ["localhost", "LocalHost"])
def test_a_file_url_is_a_path_where_localhost_is_allowed(host: str) -> None:
    reach = Reach(FOLDER, frozenset({host}))

    assert resolve("file:///b/a%20b.png", reach) == Path("/b/a b.png")
    assert resolve("FILE://LOCALHOST/b/x.png", reach) == Path("/b/x.png")
    assert resolve("file:x.png", reach) == FOLDER / "x.png"


def test_a_file_url_needs_localhost() -> None:
    assert "leads to the host localhost" in refused("file:///etc/passwd")
    assert "leads to the host localhost" in refused("file:///etc/passwd", Reach(hosts=frozenset({"other"})))


def test_a_file_of_another_host_is_not_a_local_one() -> None:
    reach = Reach(hosts=frozenset({"host", "localhost"}))

    assert "is a file of another host" in refused("file://host/etc/passwd", reach)


@pytest.mark.parametrize(
    "link", ["ftp://host/x.png", "S3://bucket/x", "gopher://x", "javascript://x", "x" * 10**6 + "://"]
)
def test_another_scheme_is_refused(link: str) -> None:
    message = refused(link, Reach(hosts=frozenset({"host", "bucket", "x"})))

    assert "takes no " in message
    assert len(message) < 300


@pytest.mark.parametrize("link", ["http://[", "http://[x]/", "http:///x", "https:x", "http://:80/", "https://u@/x"])
def test_a_malformed_url_is_one_line(link: str) -> None:
    assert "is no URL" in (message := refused(link, error=MediaError)) or "without a host" in message


@pytest.mark.parametrize("link", ["http://host/\udcff", "data:,\udcff", "file:///\udcff"])
def test_a_url_that_is_not_text_is_one_line(link: str) -> None:
    assert "the URL is not UTF-8 text" in refused(link)


def test_base64_that_does_not_say_so_is_no_path() -> None:
    message = refused(ENCODED * 20, error=MediaError)

    assert "has 6880 characters, too many for a path; write base64 as data:TYPE;base64,DATA" in message


def test_a_path_may_be_no_text() -> None:
    assert resolve("\udcff.png", NOWHERE) == FOLDER / "\udcff.png"


@pytest.mark.parametrize(
    "start", ["", "/", "http://", "http://host/", "data:", "data:x;base64,!", "https:", "x" * 99 + "://"]
)
def test_a_link_of_a_megabyte_does_not_fill_the_terminal(start: str) -> None:
    assert len(refused(start + "x" * 10**6, error=G4ConvertError)) < 400


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with web() as made:
        yield made


LOCAL = Reach(hosts=frozenset({"127.0.0.1"}))


def redirect(to: str, status: int = 302) -> Answer:
    return status, {"Location": to}, b""


def test_a_file_comes_from_an_allowed_host(host: Web) -> None:
    host.answers["/x.png"] = (200, {}, DATA)

    assert resolve(host.at("/x.png"), LOCAL) == Blob(DATA, host.at("/x.png"))
    assert host.asked == ["/x.png"]


def test_without_leave_nothing_is_asked(host: Web) -> None:
    host.answers["/x.png"] = (200, {}, DATA)

    assert "leads to the host 127.0.0.1" in refused(host.at("/x.png"))
    assert host.asked == []


@pytest.mark.parametrize("status", [404, 500, 403, 304])
def test_an_answer_that_is_no_file_is_one_line(status: int, host: Web) -> None:
    host.answers["/x.png"] = (status, {}, b"")

    assert f"the host answers {status}" in refused(host.at("/x.png"), LOCAL, MediaError)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_followed_to_an_allowed_host(status: int, host: Web) -> None:
    both = Reach(hosts=frozenset({"127.0.0.1", "localhost"}))
    host.answers["/a"] = redirect(host.at("/b", "localhost"), status)
    host.answers["/b"] = redirect("../c?d", status)
    host.answers["/c?d"] = (200, {}, DATA)

    assert resolve(host.at("/a"), both) == Blob(DATA, host.at("/c?d", "localhost"))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://localhost:{port}/b", "leads to the host localhost, which is not allowed"),
        ("//localhost:{port}/b", "leads to the host localhost, which is not allowed"),
        ("file:///etc/passwd", "leads to the host localhost, which is not allowed"),
        ("data:,x", "is a URL without a host"),
        ("http://[", "cannot be fetched: Invalid IPv6 URL"),
        ("ftp://127.0.0.1/b", "cannot be fetched: "),
    ],
)
def test_a_redirection_goes_no_further_than_links_may(location: str, message: str, host: Web) -> None:
    host.answers["/a"] = redirect(location.format(port=host.port))
    host.answers["/b"] = (200, {}, DATA)

    assert message in refused(host.at("/a"), LOCAL, G4ConvertError)
    assert host.asked == ["/a"]


def test_a_redirection_never_reads_a_local_file(host: Web) -> None:
    host.answers["/a"] = redirect("file:///etc/passwd")

    assert "cannot be fetched" in refused(host.at("/a"), Reach(hosts=LOCAL.hosts | {"localhost"}), MediaError)


def test_a_circle_of_redirections_ends(host: Web) -> None:
    host.answers["/a"], host.answers["/b"] = redirect("/b"), redirect("/a")

    assert "redirects more than 5 times" in refused(host.at("/a"), LOCAL, MediaError)
    assert len(host.asked) == 6


def test_as_many_redirections_as_are_allowed_are_followed(host: Web) -> None:
    host.answers |= {f"/{number}": redirect(f"/{number + 1}") for number in range(5)}
    host.answers["/5"] = (200, {}, DATA)

    assert resolve(host.at("/0"), LOCAL) == Blob(DATA, host.at("/5"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_too_large_is_not_held(packed: bool, host: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(100_000)
    headers = {"Content-Encoding": "gzip"} if packed else {}
    host.answers["/x"] = (200, headers, gzip.compress(body) if packed else body)

    monkeypatch.setattr(links, "LARGEST_DOWNLOAD", 100_000)
    assert resolve(host.at("/x"), LOCAL) == Blob(body, host.at("/x"))

    monkeypatch.setattr(links, "LARGEST_DOWNLOAD", 99_999)
    assert "is larger than 99999 bytes" in refused(host.at("/x"), LOCAL, MediaError)


def test_a_file_that_ends_too_early_is_one_line(host: Web) -> None:
    host.answers["/x"] = (200, {"Content-Length": "1000", "Connection": "close"}, DATA)

    assert "cannot be fetched: " in refused(host.at("/x"), LOCAL, MediaError)


def test_a_fault_without_words_is_named_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise httpx2.ReadError("")

    monkeypatch.setattr(httpx2.Client, "stream", fail)

    assert "cannot be fetched: ReadError;" in refused("http://127.0.0.1/", LOCAL, MediaError)


def test_nobody_at_home_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        message = refused(f"http://127.0.0.1:{free.getsockname()[1]}/x", LOCAL, MediaError)

    assert "cannot be fetched: " in message


def test_a_name_that_no_host_can_have_is_one_line() -> None:
    name = "a" * 70 + ".example"

    assert "cannot be fetched" in refused(f"http://{name}/", Reach(hosts=frozenset({name})), MediaError)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://127.0.0.1:1", "http://["])
def test_a_proxy_that_cannot_be_used_is_one_line(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "")

    assert "cannot be fetched" in refused("http://host.invalid/", Reach(hosts=frozenset({"host.invalid"})), MediaError)


def test_a_check_that_lets_all_hosts_pass_would_show(host: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_check_host", lambda link, reach: None)
    host.answers["/x"] = (200, {}, DATA)

    assert resolve(host.at("/x"), NOWHERE) == Blob(DATA, host.at("/x"))
    assert host.asked == ["/x"]
