"""The client of the Hub, unmodified, against the Hub on loopback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from g4convert.tests.hub.client import UPLOADS, isolate
from g4convert.tests.hub.server import serving
from g4convert.tests.hub.state import (
    FINE_TOKEN,
    READ_TOKEN,
    STRANGER_TOKEN,
    WRITE_TOKEN,
    Account,
    Hub,
    Seen,
    git_id,
)
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import BlobLfsInfo, RepoFile, RepoFolder, RepoSibling

pytestmark = UPLOADS

NAME = "alice/model"
SMALL, LARGE = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
CARD = "---\nlicense: gemma\nbase_model: google/gemma-4-e2b\n---\n# Model\n"


@pytest.fixture
def hub() -> Hub:
    """A Hub whose parts are small enough that one of the two weights comes in several."""
    return Hub(part_size=2**20)


@pytest.fixture
def url(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The Hub's address while it is served."""
    with serving(hub) as url:
        isolate(monkeypatch, tmp_path / "user", url)
        yield url


@pytest.fixture
def api(url: str) -> HfApi:
    """The client, with a token that may write."""
    return HfApi(endpoint=url, token=WRITE_TOKEN)


@pytest.fixture
def waits(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The seconds that the client would have waited between its tries."""
    return isolate(monkeypatch, tmp_path / "user", url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a conversion leaves behind, in small: text files, a folder, two files of weights."""
    folder = tmp_path / "model"
    (folder / "notes").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma4"}))
    (folder / "notes" / "a.txt").write_text("first\n")
    (folder / SMALL).write_bytes(bytes(range(256)) * 2000)
    (folder / LARGE).write_bytes(bytes(range(255, -1, -1)) * 10_000)
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(hub: Hub, name: str = NAME) -> dict[str, bytes]:
    """What is on the main branch, but for what every new repository has."""
    return {path: data for path, data in hub.repositories[name].files.items() if path != ".gitattributes"}


def large(file: RepoSibling | RepoFile) -> BlobLfsInfo:
    assert file.lfs is not None
    return file.lfs


def upload(api: HfApi, folder: Path, **options: Any) -> Any:
    return api.upload_folder(repo_id=NAME, folder_path=folder, **options)


class TestTokens:
    """Who may do what, and what the client makes of a no."""

    @pytest.mark.parametrize(
        ("token", "role"), [(WRITE_TOKEN, "write"), (READ_TOKEN, "read"), (FINE_TOKEN, "fineGrained")]
    )
    def test_whoami_tells_name_organizations_and_role(self, api: HfApi, token: str, role: str) -> None:
        who = api.whoami(token=token)

        assert (who["name"], [one["name"] for one in who["orgs"]]) == ("alice", ["lab"])
        assert who["auth"]["accessToken"]["role"] == role

    def test_a_fine_grained_token_tells_its_scopes(self, api: HfApi) -> None:
        scoped = api.whoami(token=FINE_TOKEN)["auth"]["accessToken"]["fineGrained"]["scoped"]

        assert [(one["entity"]["type"], one["entity"]["name"]) for one in scoped] == [("user", "alice")]
        assert "repo.write" in scoped[0]["permissions"]

    def test_an_unknown_token_is_401(self, api: HfApi) -> None:
        with pytest.raises(HfHubHTTPError, match="Invalid user token") as caught:
            api.whoami(token="hf_nobody")

        assert caught.value.response.status_code == 401
        assert "hf_nobody" not in str(caught.value)

    def test_an_unknown_token_cannot_even_see_what_is_public(self, api: HfApi, hub: Hub) -> None:
        hub.create(NAME)

        with pytest.raises(HfHubHTTPError) as caught:
            api.model_info(NAME, token="hf_nobody")

        assert caught.value.response.status_code == 401
        assert not isinstance(caught.value, RepositoryNotFoundError)

    @pytest.mark.parametrize("token", [False, STRANGER_TOKEN])
    def test_private_and_missing_look_alike(self, api: HfApi, hub: Hub, token: str | bool) -> None:
        hub.create(NAME, private=True)

        for name in (NAME, "alice/missing"):
            with pytest.raises(RepositoryNotFoundError):
                api.model_info(name, token=token)
            assert not api.repo_exists(name, token=token)

    @pytest.mark.parametrize(("name", "token"), [("bob/model", WRITE_TOKEN), (NAME, READ_TOKEN), ("lab/m", FINE_TOKEN)])
    def test_no_right_to_the_namespace_is_403(self, api: HfApi, name: str, token: str) -> None:
        with pytest.raises(HfHubHTTPError, match="rights to create a model under the namespace") as caught:
            api.create_repo(name, token=token)

        assert caught.value.response.status_code == 403

    def test_exist_ok_hides_that_an_existing_repository_is_not_ours(self, api: HfApi, hub: Hub) -> None:
        hub.create("bob/model")

        assert api.create_repo("bob/model", exist_ok=True).repo_id == "bob/model"
        with pytest.raises(HfHubHTTPError, match="create_pr=1"):
            api.auth_check("bob/model", write=True)

    def test_a_read_token_cannot_upload(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.create(NAME)

        with pytest.raises(HfHubHTTPError, match="create_pr=1") as caught:
            upload(api, folder, token=READ_TOKEN)

        assert caught.value.response.status_code == 403
        assert published(hub) == {}

    def test_a_fine_grained_token_writes_within_its_scope(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.accounts["hf_one"] = Account("alice", "fineGrained", (), (NAME,))

        api.create_repo(NAME, token="hf_one")
        upload(api, folder, token="hf_one")

        assert published(hub) == contents(folder)


class TestRepositories:
    """Creating, describing, branching."""

    def test_create_and_create_again(self, api: HfApi, hub: Hub, url: str) -> None:
        created = api.create_repo(NAME, private=True)

        assert (str(created), created.repo_id, hub.repositories[NAME].private) == (f"{url}/{NAME}", NAME, True)
        assert api.create_repo(NAME, exist_ok=True) == created
        with pytest.raises(HfHubHTTPError) as caught:
            api.create_repo(NAME)
        assert caught.value.response.status_code == 409

    def test_a_name_without_namespace_is_the_users(self, api: HfApi) -> None:
        assert api.create_repo("model").repo_id == NAME

    def test_a_bad_name_never_leaves_the_client(self, api: HfApi, hub: Hub) -> None:
        with pytest.raises(HFValidationError):
            api.create_repo("alice/two--dashes")
        assert hub.requests == []

    def test_missing_revision_and_missing_file(self, api: HfApi, hub: Hub, tmp_path: Path) -> None:
        hub.create(NAME)

        with pytest.raises(RevisionNotFoundError):
            api.model_info(NAME, revision="nowhere")
        with pytest.raises(EntryNotFoundError):
            api.hf_hub_download(NAME, "missing.json", local_dir=tmp_path / "down")
        assert not api.file_exists(NAME, "missing.json")

    def test_branches(self, api: HfApi, hub: Hub) -> None:
        hub.create(NAME)

        api.create_branch(NAME, branch="4-bit")
        api.create_branch(NAME, branch="4-bit", exist_ok=True)

        assert {branch.name for branch in api.list_repo_refs(NAME).branches} == {"main", "4-bit"}
        with pytest.raises(HfHubHTTPError, match="already exists"):
            api.create_branch(NAME, branch="4-bit")
        with pytest.raises(BadRequestError):
            api.create_branch(NAME, branch="refs/pr/7")


class TestUploads:
    """A folder, once and again, in Git and in the object storage."""

    def test_a_folder_arrives(self, api: HfApi, hub: Hub, url: str, folder: Path) -> None:
        api.create_repo(NAME)

        commit = upload(api, folder, commit_message="Publish", commit_description="All of it")

        assert published(hub) == contents(folder)
        assert sorted(hub.uploaded) == sorted(sha256(folder / name) for name in (SMALL, LARGE))
        assert commit.commit_url == f"{url}/{NAME}/commit/{commit.oid}"
        assert api.model_info(NAME).sha == commit.oid
        assert [one.title for one in api.list_repo_commits(NAME)] == ["Publish", "initial commit"]

    def test_large_files_come_whole_or_in_parts(self, api: HfApi, hub: Hub, folder: Path) -> None:
        api.create_repo(NAME)

        upload(api, folder)

        assert len(hub.seen("PUT", sha256(folder / SMALL))) == 1
        assert len(hub.seen("PUT", sha256(folder / LARGE))) == 3
        assert hub.received == sum((folder / name).stat().st_size for name in (SMALL, LARGE))

    def test_the_token_stays_with_the_hub(self, api: HfApi, hub: Hub, folder: Path, tmp_path: Path) -> None:
        api.create_repo(NAME, private=True)
        upload(api, folder)
        api.hf_hub_download(NAME, LARGE, local_dir=tmp_path / "down")

        stored = [(one, headers) for one, headers in zip(hub.requests, hub.headers, strict=True) if leaves_the_hub(one)]

        assert {one.method for one, _ in stored} == {"PUT", "GET"}
        assert not any(one.authorized or WRITE_TOKEN in str(headers) for one, headers in stored)
        assert hub.seen("POST", "/commit/")[0].authorized

    def test_the_same_folder_again_sends_nothing(self, api: HfApi, hub: Hub, folder: Path) -> None:
        api.create_repo(NAME)
        first = upload(api, folder)
        hub.uploaded.clear()

        again = upload(api, folder)

        assert (again.oid, hub.uploaded, len(hub.seen("POST", "/commit/"))) == (first.oid, [], 1)

    def test_objects_of_another_repository_are_not_sent_again(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.create("alice/first")
        api.upload_folder(repo_id="alice/first", folder_path=folder)
        hub.uploaded.clear()
        hub.create(NAME)

        upload(api, folder)

        assert (hub.uploaded, published(hub)) == ([], contents(folder))

    def test_a_changed_file_comes_alone(self, api: HfApi, hub: Hub, folder: Path) -> None:
        api.create_repo(NAME)
        upload(api, folder)
        hub.uploaded.clear()
        (folder / SMALL).write_bytes(b"other")

        upload(api, folder)

        assert (hub.uploaded, published(hub)) == ([sha256(folder / SMALL)], contents(folder))

    def test_what_the_folder_lacks_can_be_deleted(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.create(NAME)
        hub.put(NAME, {"old/a.txt": b"old", "b.safetensors": b"old"}, large=("b.safetensors",))

        upload(api, folder, delete_patterns="*")

        assert published(hub) == contents(folder)
        assert ".gitattributes" in hub.repositories[NAME].files

    def test_a_branch(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.create(NAME)
        api.create_branch(NAME, branch="4-bit")

        upload(api, folder, revision="4-bit")

        assert published(hub) == {}
        assert set(api.list_repo_files(NAME, revision="4-bit")) == {".gitattributes", *contents(folder)}
        with pytest.raises(RevisionNotFoundError):
            upload(api, folder, revision="8-bit")

    @pytest.mark.parametrize("token", [WRITE_TOKEN, STRANGER_TOKEN])
    def test_a_pull_request(self, api: HfApi, hub: Hub, url: str, folder: Path, token: str) -> None:
        hub.create(NAME)

        commit = upload(api, folder, create_pr=True, token=token)

        assert (commit.pr_url, commit.pr_revision) == (f"{url}/{NAME}/discussions/1", "refs/pr/1")
        assert published(hub) == {}
        assert set(contents(folder)) < set(api.list_repo_files(NAME, revision="refs/pr/1"))

    def test_somebody_elses_commit_in_between(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.create(NAME)
        before = api.model_info(NAME).sha
        hub.put(NAME, {"other.txt": b"other"})

        with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
            upload(api, folder, parent_commit=before)

        assert caught.value.response.status_code == 412


def leaves_the_hub(one: Seen) -> bool:
    return one.place == "storage"


class TestXet:
    """What the client does of itself: large files go to the Xet storage, and commits are tried again."""

    @pytest.fixture(autouse=True)
    def waits(self, url: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
        hub.create(NAME)
        hub.xet = tmp_path / "xet"
        hub.xet.mkdir()
        return isolate(monkeypatch, tmp_path / "user", url, xet=True)

    def test_a_folder_arrives_in_one_commit(self, api: HfApi, hub: Hub, folder: Path) -> None:
        upload(api, folder)

        assert published(hub) == contents(folder)
        assert sorted(hub.uploaded) == sorted(sha256(folder / name) for name in (SMALL, LARGE))
        assert len(hub.seen("POST", "/commit/")) == 1

    def test_the_same_folder_again_commits_nothing(self, api: HfApi, hub: Hub, folder: Path) -> None:
        first = upload(api, folder)

        assert upload(api, folder).oid == first.oid
        assert len(hub.seen("POST", "/commit/")) == 1

    def test_a_pull_request_is_opened_first(self, api: HfApi, hub: Hub, folder: Path) -> None:
        commit = upload(api, folder, create_pr=True, token=STRANGER_TOKEN)

        assert commit.pr_revision == "refs/pr/1"
        assert set(contents(folder)) < set(api.list_repo_files(NAME, revision="refs/pr/1"))
        assert [one.path.rpartition(NAME)[2] for one in hub.seen("POST", NAME)][:3] == [
            "/preupload/main",
            "/discussions",
            "/commit/refs%2Fpr%2F1",
        ]

    def test_a_single_commit_can_be_asked_for(self, api: HfApi, hub: Hub, folder: Path) -> None:
        operations = [CommitOperationAdd(path, folder / path) for path in contents(folder)]

        api.create_commit(NAME, operations, commit_message="Publish")

        assert published(hub) == contents(folder)
        assert len(hub.seen("POST", "/commit/")) == 1

    def test_a_refused_commit_is_tried_again(self, api: HfApi, hub: Hub, folder: Path, waits: list[float]) -> None:
        hub.faults.refuse(503, "POST", "/commit/")

        upload(api, folder)

        assert (published(hub), waits) == (contents(folder), [1])

    @pytest.mark.parametrize("status", [401, 403, 503])
    def test_a_refused_pass_is_a_plain_connection_error(self, api: HfApi, hub: Hub, folder: Path, status: int) -> None:
        hub.faults.refuse(status, "GET", "/xet-write-token/", always=True)

        with pytest.raises(ConnectionError, match=str(status)) as caught:
            upload(api, folder)

        assert not isinstance(caught.value, HfHubHTTPError)
        assert WRITE_TOKEN not in str(caught.value)

    def test_a_lost_answer_makes_two_commits(self, api: HfApi, hub: Hub, folder: Path, waits: list[float]) -> None:
        hub.faults.drop("after", "POST", "/commit/")

        upload(api, folder)

        assert (len(api.list_repo_commits(NAME)), waits) == (3, [1])

    def test_corruption_is_healed_by_another_upload(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.faults.corrupt(SMALL)
        upload(api, folder)
        broken = published(hub)
        hub.faults.clear()

        upload(api, folder)

        assert broken != published(hub) == contents(folder)


class TestBadRequests:
    """What no client sends: the Hub refuses it, so a test of ours that passes says something."""

    @pytest.fixture
    def stored(self, api: HfApi, hub: Hub) -> str:
        """The address of an object that is yet to come."""
        api.create_repo(NAME)
        return f"{hub.storage_url}/objects/{hashlib.sha256(b'right').hexdigest()}"

    def test_the_storage_takes_only_what_was_named(self, stored: str, hub: Hub) -> None:
        assert httpx2.put(stored, content=b"wrong").status_code == 400
        assert hub.uploaded == []
        assert httpx2.put(stored, content=b"right").status_code == 200

    def test_the_storage_takes_no_token_and_the_record_has_it(self, stored: str, hub: Hub) -> None:
        answer = httpx2.put(stored, content=b"right", headers={"Authorization": f"Bearer {WRITE_TOKEN}"})

        assert answer.status_code == 400
        assert [one.authorized for one in hub.seen("PUT")] == [True]
        assert WRITE_TOKEN in str(hub.headers)
        assert WRITE_TOKEN not in str(hub.requests)

    def test_a_commit_cannot_name_what_was_not_uploaded(self, url: str, hub: Hub) -> None:
        hub.create(NAME)
        lines = [
            {"key": "header", "value": {"summary": "Publish", "description": ""}},
            {"key": "lfsFile", "value": {"path": SMALL, "algo": "sha256", "oid": "0" * 64, "size": 5}},
        ]
        answer = httpx2.post(
            f"{url}/api/models/{NAME}/commit/main",
            content="\n".join(map(json.dumps, lines)),
            headers={"Authorization": f"Bearer {WRITE_TOKEN}"},
        )

        assert (answer.status_code, published(hub)) == (400, {})

    def test_an_unknown_endpoint(self, url: str) -> None:
        answer = httpx2.get(f"{url}/api/spaces")

        assert (answer.status_code, answer.json()["error"]) == (404, "The tests' Hub does not know GET /api/spaces")


class TestReading:
    """What the Hub tells of files, and their content."""

    @pytest.fixture(autouse=True)
    def _uploaded(self, api: HfApi, folder: Path) -> None:
        api.create_repo(NAME)
        upload(api, folder)

    def test_model_info_names_content_in_git_and_storage(self, api: HfApi, folder: Path) -> None:
        siblings = {one.rfilename: one for one in api.model_info(NAME, files_metadata=True).siblings or []}
        weights, config = siblings[LARGE], siblings["config.json"]

        assert (large(weights).sha256, large(weights).size) == (sha256(folder / LARGE), weights.size)
        assert weights.size == (folder / LARGE).stat().st_size
        assert (config.lfs, config.size) == (None, (folder / "config.json").stat().st_size)
        assert config.blob_id == git_id("blob", (folder / "config.json").read_bytes())

    def test_without_metadata_there_are_only_names(self, api: HfApi) -> None:
        assert all(one.size is None and one.lfs is None for one in api.model_info(NAME).siblings or [])

    @pytest.mark.parametrize("size", [1000, 2])
    def test_the_tree_page_by_page(self, api: HfApi, hub: Hub, folder: Path, size: int) -> None:
        hub.page_size = size

        files = {one.path: one for one in api.list_repo_tree(NAME, recursive=True) if isinstance(one, RepoFile)}

        assert set(files) == {".gitattributes", *contents(folder)}
        assert large(files[SMALL]).sha256 == sha256(folder / SMALL)
        assert len(hub.seen("GET", "/tree/")) == (1 if size == 1000 else 4)

    def test_the_tree_folder_by_folder(self, api: HfApi) -> None:
        top = list(api.list_repo_tree(NAME))

        assert [one.path for one in top if isinstance(one, RepoFolder)] == ["notes"]
        assert [one.path for one in api.list_repo_tree(NAME, "notes")] == ["notes/a.txt"]
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(NAME, "nowhere"))

    def test_expanded_entries_tell_their_last_commit(self, api: HfApi) -> None:
        api.upload_file(path_or_fileobj=b"new", path_in_repo="notes/b.txt", repo_id=NAME, commit_message="B")

        last = {one.path: one.last_commit for one in api.list_repo_tree(NAME, expand=True)}

        assert last["notes"] is not None
        assert last["config.json"] is not None
        assert (last["notes"].title, last["config.json"].title) == ("B", "Upload folder using huggingface_hub")

    def test_paths(self, api: HfApi) -> None:
        found = api.get_paths_info(NAME, ["config.json", "notes", "missing"])

        assert [(one.path, type(one)) for one in found] == [("config.json", RepoFile), ("notes", RepoFolder)]

    def test_a_file_comes_back(self, api: HfApi, folder: Path, tmp_path: Path) -> None:
        for name in ("config.json", LARGE):
            path = Path(api.hf_hub_download(NAME, name, cache_dir=tmp_path / "cache"))
            assert path.read_bytes() == (folder / name).read_bytes()

    def test_a_snapshot_comes_back(self, api: HfApi, folder: Path, tmp_path: Path) -> None:
        snapshot = Path(api.snapshot_download(NAME, cache_dir=tmp_path / "cache"))

        assert contents(folder).items() < contents(snapshot).items()

    @pytest.mark.parametrize("name", ["config.json", SMALL])
    def test_a_range_of_a_file(self, url: str, folder: Path, name: str) -> None:
        data = (folder / name).read_bytes()

        for asked, part in (("bytes=2-5", data[2:6]), ("bytes=7-", data[7:]), ("bytes=-3", data[-3:])):
            answer = httpx2.get(f"{url}/{NAME}/resolve/main/{name}", headers={"Range": asked}, follow_redirects=True)
            assert (answer.status_code, answer.content) == (206, part)

    def test_head_tells_names_and_sizes(self, api: HfApi, url: str, folder: Path) -> None:
        head = api.get_hf_file_metadata(url=f"{url}/{NAME}/resolve/main/{SMALL}")

        assert (head.etag, head.size) == (sha256(folder / SMALL), (folder / SMALL).stat().st_size)
        assert head.commit_hash == api.model_info(NAME).sha


@pytest.mark.usefixtures("url")
class TestCards:
    """What the Hub thinks of a README."""

    def test_a_good_card(self) -> None:
        ModelCard(CARD).validate()

    def test_a_bad_card(self) -> None:
        with pytest.raises(ValueError, match="license"):
            ModelCard(CARD.replace("gemma\n", "nonsense\n", 1)).validate()

    def test_a_bad_card_stops_an_upload_before_it_begins(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.create(NAME)
        (folder / "README.md").write_text(CARD.replace("gemma\n", "nonsense\n", 1))

        with pytest.raises(ValueError, match="Invalid metadata in README"):
            upload(api, folder)

        assert [one.path for one in hub.requests] == ["/api/validate-yaml"]

    def test_a_card_without_metadata_is_warned_of(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.create(NAME)
        (folder / "README.md").write_text("# Model\n")

        with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
            upload(api, folder)


class TestFaults:
    """What goes wrong when a test says so, and what the client makes of it."""

    @pytest.fixture(autouse=True)
    def _created(self, hub: Hub) -> None:
        hub.create(NAME)

    @pytest.mark.parametrize("status", [401, 403, 404, 409, 413, 429, 500, 503])
    def test_a_refused_commit_is_not_tried_again(self, api: HfApi, hub: Hub, folder: Path, status: int) -> None:
        hub.faults.refuse(status, "POST", "/commit/", always=True)

        with pytest.raises(HfHubHTTPError, match=f"answers {status}") as caught:
            upload(api, folder)

        assert caught.value.response.status_code == status
        assert len(hub.seen("POST", "/commit/")) == 1
        assert WRITE_TOKEN not in str(caught.value)

    @pytest.mark.parametrize(
        ("status", "path"),
        [(429, "/preupload/"), (500, "/objects/batch"), (503, "/objects/[0-9a-f]+$"), (503, "/verify")],
    )
    def test_a_passing_fault_is_waited_out(
        self, api: HfApi, hub: Hub, folder: Path, waits: list[float], status: int, path: str
    ) -> None:
        hub.faults.refuse(status, "POST|PUT", path)

        upload(api, folder)

        assert (published(hub), waits) == (contents(folder), [1])

    def test_retry_after_is_respected(self, api: HfApi, hub: Hub, folder: Path, waits: list[float]) -> None:
        hub.faults.refuse(429, "POST", "/preupload/", retry_after=30)

        upload(api, folder)

        assert waits == [31]

    def test_a_lasting_fault_is_given_up_after_six_tries(
        self, api: HfApi, hub: Hub, folder: Path, waits: list[float]
    ) -> None:
        hub.faults.refuse(503, "POST", "/preupload/", always=True)

        with pytest.raises(HfHubHTTPError, match="503"):
            upload(api, folder)

        assert waits == [1, 2, 4, 8, 8]

    def test_a_refused_object_is_a_runtime_error(self, api: HfApi, hub: Hub, folder: Path, waits: list[float]) -> None:
        hub.faults.refuse(413, "PUT", sha256(folder / SMALL), always=True)

        with pytest.raises(RuntimeError, match=f"Error while uploading '{SMALL}'") as caught:
            upload(api, folder)

        assert isinstance(caught.value.__cause__, HfHubHTTPError)
        assert (waits, published(hub)) == ([], {})

    def test_the_second_request_fails_and_the_first_does_not(self, api: HfApi, hub: Hub) -> None:
        hub.faults.refuse(500, "GET", f"/api/models/{NAME}", nth=2)

        api.model_info(NAME)
        with pytest.raises(HfHubHTTPError):
            api.model_info(NAME)
        api.model_info(NAME)

    def test_a_code_chooses_the_exception(self, api: HfApi, hub: Hub) -> None:
        hub.faults.refuse(403, "GET", f"/api/models/{NAME}", code="GatedRepo")

        with pytest.raises(GatedRepoError):
            api.model_info(NAME)

    @pytest.mark.parametrize("moment", ["middle", "before", "after"])
    def test_a_broken_upload_is_tried_again(
        self, api: HfApi, hub: Hub, folder: Path, waits: list[float], moment: Any
    ) -> None:
        hub.faults.drop(moment, "PUT", sha256(folder / SMALL))

        upload(api, folder)

        puts = hub.seen("PUT", sha256(folder / SMALL))
        assert ([one.status for one in puts], waits) == ([0, 200], [1])
        assert puts[0].received < puts[1].received or moment != "middle"
        assert published(hub) == contents(folder)

    def test_an_interrupted_upload_goes_on_where_it_was(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.faults.drop("middle", "PUT", sha256(folder / LARGE), always=True)
        with pytest.raises(RuntimeError):
            upload(api, folder)
        hub.faults.clear()
        before = list(hub.uploaded)

        upload(api, folder)

        assert (before, hub.uploaded) == ([sha256(folder / SMALL)], [sha256(folder / SMALL), sha256(folder / LARGE)])

    @pytest.mark.parametrize(("moment", "arrived"), [("middle", False), ("before", False), ("after", True)])
    def test_a_commit_without_an_answer(self, api: HfApi, hub: Hub, folder: Path, moment: Any, arrived: bool) -> None:
        hub.faults.drop(moment, "POST", "/commit/")

        with pytest.raises((httpx2.NetworkError, httpx2.RemoteProtocolError)):
            upload(api, folder)

        assert bool(published(hub)) == arrived

    def test_corruption_is_in_the_listing(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.faults.corrupt(f"{SMALL}|config.json")
        upload(api, folder)

        siblings = {one.rfilename: one for one in api.model_info(NAME, files_metadata=True).siblings or []}

        assert siblings[SMALL].size == (folder / SMALL).stat().st_size
        assert large(siblings[SMALL]).sha256 != sha256(folder / SMALL)
        assert siblings["config.json"].blob_id != git_id("blob", (folder / "config.json").read_bytes())
        assert siblings["README.md"].blob_id == git_id("blob", (folder / "README.md").read_bytes())

    def test_corruption_is_healed_by_another_upload(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.faults.corrupt(SMALL)
        upload(api, folder)
        hub.faults.clear()

        upload(api, folder)

        assert published(hub) == contents(folder)

    def test_a_lost_file_is_not_in_the_listing(self, api: HfApi, hub: Hub, folder: Path) -> None:
        hub.faults.lose("config.json")

        upload(api, folder)

        assert set(api.list_repo_files(NAME)) == {".gitattributes", *contents(folder)} - {"config.json"}

    def test_nobody_listens(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        isolate(monkeypatch, tmp_path / "user")

        with pytest.raises(httpx2.ConnectError):
            HfApi(endpoint="http://127.0.0.1:1", token=WRITE_TOKEN).whoami()
