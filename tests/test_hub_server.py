"""The hub for tests, as the real client finds it."""

import hashlib
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx2
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, errors, hf_hub_download

from tests.hub_client import Naps, environment, in_this_process
from tests.hub_faults import Chunked, Cut, Flip, HangUp, Headers, Padded, Refuse, Slow, Tap, Whole
from tests.hub_server import TOKEN, HubServer

NAME = "tester/weights"
LARGE = np.random.default_rng(1).bytes(200_000)
CARD = "---\nlicense: mit\n---\n# A card\n"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(NAME, "README.md", CARD.encode())
        server.add(NAME, "sidd.safetensors", LARGE)
        yield server


@pytest.fixture
def mirror() -> Iterator[HubServer]:
    with HubServer(tls=True) as server:
        yield server


@pytest.fixture
def naps(hub: HubServer, tmp_path: Path) -> Iterator[Naps]:
    with in_this_process(hub, tmp_path / "home") as naps:
        yield naps


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def download(path: str = "sidd.safetensors", *, revision: str | None = None, token: str | None = None) -> bytes:
    return Path(hf_hub_download(NAME, path, revision=revision, token=token)).read_bytes()


@pytest.mark.usefixtures("naps")
class TestDownload:
    def test_regular_file(self, hub: HubServer) -> None:
        assert download("README.md") == CARD.encode()
        assert [request.method for request in hub.requests] == ["HEAD", "GET"]

    def test_large_file_is_at_another_port_where_the_token_does_not_go(self, hub: HubServer) -> None:
        assert download(token=TOKEN) == LARGE
        asked, got = hub.requests
        assert (asked.method, asked.token, asked.status) == ("HEAD", TOKEN, 302)
        assert (got.method, got.token, got.status) == ("GET", None, 200)
        assert got.path == f"/cdn/{digest(LARGE)}"
        assert hub.cdn_url.endswith(f":{got.port}")

    def test_second_time_is_one_question_and_a_known_commit_is_none(self, hub: HubServer) -> None:
        download()
        hub.forget()
        download()
        assert [request.method for request in hub.requests] == ["HEAD"]
        hub.forget()
        huggingface_hub.close_session()
        download(revision=HfApi(hub.url).model_info(NAME).sha)
        assert len(hub.requests) == hub.connections == 1  # only for the information

    def test_older_commit_stays_readable(self, hub: HubServer) -> None:
        old = hub.add(NAME, "notes.txt", b"old")
        new = hub.add(NAME, "notes.txt", b"new")
        assert (download("notes.txt", revision=old), download("notes.txt", revision=new)) == (b"old", b"new")
        assert download("notes.txt") == b"new"

    def test_branch(self, hub: HubServer) -> None:
        hub.add(NAME, "notes.txt", b"of a branch", revision="refs/pr/1")
        assert download("notes.txt", revision="refs/pr/1") == b"of a branch"
        assert "notes.txt" not in hub.files(NAME)

    def test_information_and_listing(self, hub: HubServer) -> None:
        commit = hub.add(NAME, "folder/a.txt", b"a")
        api = HfApi(hub.url)
        information = api.model_info(NAME, files_metadata=True)
        assert information.sha == commit == api.model_info(NAME, revision=commit).sha
        lfs = {file.rfilename: file.lfs for file in information.siblings or []}
        assert lfs["sidd.safetensors"] is not None
        assert lfs["sidd.safetensors"].sha256 == digest(LARGE)
        assert lfs["README.md"] is None
        top = [file.path for file in api.list_repo_tree(NAME)]
        assert top == ["folder", ".gitattributes", "README.md", "sidd.safetensors"]
        assert [file.path for file in api.list_repo_tree(NAME, "folder", recursive=True)] == ["folder/a.txt"]
        assert [file.path for file in api.get_paths_info(NAME, ["README.md", "none"])] == ["README.md"]


class TestErrors:
    @pytest.mark.usefixtures("naps")
    def test_each_kind_is_the_clients_own(self, hub: HubServer) -> None:
        with pytest.raises(errors.RepositoryNotFoundError):
            hf_hub_download("tester/none", "a")
        with pytest.raises(errors.RevisionNotFoundError):
            download(revision="none")
        with pytest.raises(errors.RemoteEntryNotFoundError):
            download("none")
        hub.repository(NAME, gated=True)
        with pytest.raises(errors.GatedRepoError):
            download(token=TOKEN)

    @pytest.mark.usefixtures("naps")
    def test_private_repository_needs_the_token(self, hub: HubServer) -> None:
        hub.repository(NAME, private=True)
        with pytest.raises(errors.RepositoryNotFoundError, match="401"):
            download()
        with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials"):
            download(token="hf_wrong")
        assert download(token=TOKEN) == LARGE
        assert HfApi(hub.url, token=TOKEN).whoami()["name"] == "tester"

    @pytest.mark.parametrize("status", [429, 503])
    def test_tries_again(self, hub: HubServer, naps: Naps, status: int) -> None:
        hub.fault(Refuse(status, retry_after=7), method="HEAD", times=2)
        assert download() == LARGE
        assert naps.seconds == [8]  # one more than it was told, and the first of the two tries was without any
        assert [request.status for request in hub.requests] == [status, status, 302, 200]

    def test_gives_up_in_the_end(self, hub: HubServer, naps: Naps) -> None:
        hub.fault(Refuse(500), method="HEAD", times=None)
        with pytest.raises(errors.LocalEntryNotFoundError):
            download()
        assert (len(hub.requests), naps.seconds) == (7, [1, 2, 4, 8, 8])

    def test_body_is_tried_again_after_429_and_not_after_500(self, hub: HubServer, naps: Naps) -> None:
        hub.fault(Refuse(429, retry_after=3), path="/cdn/")
        assert download() == LARGE
        assert naps.seconds == [4]
        hub.add(NAME, "sidd.safetensors", LARGE[::-1])
        hub.fault(Refuse(500), path="/cdn/")
        with pytest.raises(errors.HfHubHTTPError, match="500"):
            download()

    def test_answer_without_a_commit_is_no_hubs(self, hub: HubServer, naps: Naps) -> None:
        hub.fault(Headers({"X-Repo-Commit": None}), method="HEAD")
        with pytest.raises(errors.LocalEntryNotFoundError, match="X-Repo-Commit"):
            download()
        assert naps.seconds == []

    def test_hanging_up(self, hub: HubServer, naps: Naps) -> None:
        hub.fault(HangUp(), method="HEAD")
        with pytest.raises(httpx2.RemoteProtocolError):
            download()
        hub.fault(HangUp(reset=True), method="HEAD")
        with pytest.raises(httpx2.ReadError):
            download()
        assert naps.seconds == []
        assert [request.status for request in hub.requests] == [0, 0]

    @pytest.mark.usefixtures("naps")
    def test_error_of_the_server_itself_is_raised_at_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        server = HubServer()
        monkeypatch.setattr(server, "reply_to", broken)
        server.start()
        with pytest.raises(httpx2.RemoteProtocolError):
            httpx2.get(server.url)
        with pytest.raises(ZeroDivisionError):
            server.stop()


class TestBodies:
    @pytest.mark.parametrize("tenth", range(1, 10))
    def test_resumed_after_a_cut(self, hub: HubServer, naps: Naps, monkeypatch: pytest.MonkeyPatch, tenth: int) -> None:
        # The client writes nothing of a piece of 10 MiB that has not come whole.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 20_000)
        hub.fault(Cut(tenth / 10), path="/cdn/")
        assert download() == LARGE
        assert [request.first_byte for request in hub.asked("GET", "/cdn/")] == [0, 20_000 * tenth]
        assert [request.status for request in hub.asked("GET", "/cdn/")] == [200, 206]
        assert naps.seconds == [1]

    @pytest.mark.usefixtures("naps")
    def test_begun_again_where_the_server_knows_no_ranges(
        self, hub: HubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 20_000)
        hub.fault(Cut(0.5), path="/cdn/")
        hub.fault(Whole(), path="/cdn/")
        assert download() == LARGE
        assert [request.status for request in hub.asked("GET", "/cdn/")] == [200, 200]

    @pytest.mark.usefixtures("naps")
    def test_reset_is_not_resumed(self, hub: HubServer) -> None:
        hub.fault(Cut(0.5, reset=True), path="/cdn/")
        with pytest.raises(httpx2.ReadError):
            download()
        assert len(hub.asked("GET", "/cdn/")) == 1

    @pytest.mark.usefixtures("naps")
    def test_wrong_byte_is_not_noticed(self, hub: HubServer) -> None:
        hub.fault(Flip(123_456), path="/cdn/")
        got = download()
        assert [place for place in range(len(LARGE)) if got[place] != LARGE[place]] == [123_456]

    @pytest.mark.usefixtures("naps")
    @pytest.mark.parametrize("by_bytes", [-5, 5])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_other_length_than_the_head_said(self, hub: HubServer, by_bytes: int, chunked: bool) -> None:
        hub.fault(Padded(by_bytes, announced=True), *([Chunked()] if chunked else []), path="/cdn/")
        with pytest.raises(OSError, match=f"should be of size 200000 but has size {200_000 + by_bytes}"):
            download()

    @pytest.mark.usefixtures("naps")
    def test_surplus_bytes_are_not_noticed(self, hub: HubServer) -> None:
        hub.fault(Padded(5), path="/cdn/")
        assert download() == LARGE

    @pytest.mark.usefixtures("naps")
    def test_chunked(self, hub: HubServer) -> None:
        hub.fault(Chunked(), path="/cdn/")
        assert download() == LARGE

    @pytest.mark.usefixtures("naps")
    def test_slow_one_goes_on_when_told(self, hub: HubServer) -> None:
        tap = Tap(50_000)
        hub.fault(Slow(tap), path="/cdn/")
        got: list[bytes] = []
        client = threading.Thread(target=lambda: got.append(download()))
        client.start()
        tap.wait_for(1)
        tap.let(2)
        tap.wait_for(3)
        assert client.is_alive()
        tap.open()
        client.join()
        assert got == [LARGE]

    def test_one_standing_still_is_given_up(self, hub: HubServer, naps: Naps, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        hub.fault(Slow(Tap(50_000)), path="/cdn/")
        assert download() == LARGE
        assert set(naps.seconds) == {1}


@pytest.mark.parametrize(
    ("asked", "status", "got", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=7-99", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_ranges(hub: HubServer, asked: str, status: int, got: bytes, content_range: str | None) -> None:
    address = hub.serve("/digits", b"0123456789", etag="ten")
    answer = httpx2.get(address, headers={"Range": asked})
    assert (answer.status_code, answer.content, answer.headers.get("Content-Range")) == (status, got, content_range)


def test_range_only_if_unchanged(hub: HubServer) -> None:
    address = hub.serve("/digits", b"0123456789", etag="ten")
    with httpx2.Client(headers={"Range": "bytes=7-"}) as client:
        assert client.get(address, headers={"If-Range": '"ten"'}).content == b"789"
        assert client.get(address, headers={"If-Range": '"nine"'}).content == b"0123456789"
    assert [request.first_byte for request in hub.requests] == [7, 7]
    assert hub.connections == 1  # kept alive


# huggingface_hub uploads large files with a word that httpx2 no longer likes.
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
@pytest.mark.usefixtures("naps")
class TestPublish:
    def test_what_is_published_is_downloaded_equal(self, hub: HubServer, tmp_path: Path) -> None:
        api = HfApi(hub.url, token=TOKEN)
        name = api.create_repo("tester/published", private=True).repo_id
        weights = np.random.default_rng(2).bytes(50_000)
        (tmp_path / "w.safetensors").write_bytes(weights)
        operations = [
            CommitOperationAdd("w.safetensors", tmp_path / "w.safetensors"),
            CommitOperationAdd("README.md", CARD.encode()),
        ]
        commit = api.create_commit(name, operations, commit_message="Publish")
        assert commit.oid == api.model_info(name).sha
        assert len(commit.oid) == 40
        assert [made.path.split("?")[0] for made in hub.asked("PUT")] == [f"/lfs/{digest(weights)}"]
        assert Path(hf_hub_download(name, "w.safetensors", token=TOKEN)).read_bytes() == weights
        assert Path(hf_hub_download(name, "README.md", token=TOKEN)).read_text() == CARD

    def test_publishing_again(self, hub: HubServer) -> None:
        api = HfApi(hub.url, token=TOKEN)
        with pytest.raises(errors.HfHubHTTPError, match="409"):
            api.create_repo(NAME)
        assert api.create_repo(NAME, exist_ok=True).repo_id == NAME
        before = api.model_info(NAME).sha
        same = CommitOperationAdd("sidd.safetensors", LARGE)
        assert api.create_commit(NAME, [same], commit_message="The same").oid == before
        assert hub.asked("PUT") == hub.asked("POST", "/commit/") == []
        api.create_commit(
            NAME,
            [huggingface_hub.CommitOperationDelete("sidd.safetensors")],
            commit_message="Away",
            parent_commit=before,
        )
        assert sorted(hub.files(NAME)) == [".gitattributes", "README.md"]
        assert "sidd.safetensors" in hub.files(NAME, before or "")
        with pytest.raises(errors.HfHubHTTPError, match="412"):
            api.create_commit(NAME, [CommitOperationAdd("a", b"a")], commit_message="Too late", parent_commit=before)

    def test_upload_is_tried_again(self, hub: HubServer, naps: Naps) -> None:
        hub.fault(Refuse(503), method="PUT")
        api = HfApi(hub.url, token=TOKEN)
        api.upload_file(path_or_fileobj=LARGE[:100], path_in_repo="b.safetensors", repo_id=NAME)
        assert hub.files(NAME)["b.safetensors"] == LARGE[:100]
        assert naps.seconds == [1]

    def test_refused_commit_changes_nothing(self, hub: HubServer) -> None:
        before = hub.files(NAME)
        hub.fault(Refuse(403, message="read only"), method="POST", path="/commit/")
        with pytest.raises(errors.HfHubHTTPError, match="read only"):
            HfApi(hub.url, token=TOKEN).upload_file(path_or_fileobj=b"a", path_in_repo="a", repo_id=NAME)
        assert hub.files(NAME) == before
        with pytest.raises(errors.HfHubHTTPError, match="401"):
            HfApi(hub.url).create_repo("tester/other")

    def test_card(self, hub: HubServer) -> None:
        huggingface_hub.ModelCard(CARD + "new").push_to_hub(NAME, token=TOKEN)
        assert hub.files(NAME)["README.md"] == (CARD + "new").encode()
        assert len(hub.asked("POST", "/api/validate-yaml")) == 2
        with pytest.raises(ValueError, match="license"):
            huggingface_hub.ModelCard("---\nlicense: wtf\n---\n").push_to_hub(NAME, token=TOKEN)

    def test_object_of_another_hash_is_refused(self, hub: HubServer) -> None:
        address = f"{hub.cdn_url}/lfs/{digest(LARGE)}?size={len(LARGE)}"
        assert httpx2.put(address, content=LARGE[:-1] + b"!").status_code == 400
        assert httpx2.put(address, content=iter([LARGE[:99], LARGE[99:]])).status_code == 200


class TestMirror:
    PATH = "/releases/download/kbnet/a.pth"

    @pytest.mark.usefixtures("naps")
    def test_over_tls_with_a_redirect(self, mirror: HubServer) -> None:
        address = mirror.redirect(self.PATH, mirror.cdn_url.replace("127.0.0.1", "localhost") + "/store/1?signed=yes")
        mirror.serve("/store/1", LARGE)
        assert address.startswith("https://127.0.0.1:")
        answer = huggingface_hub.get_session().get(address)
        assert answer.content == LARGE
        assert [request.status for request in mirror.requests] == [302, 200]
        with urllib.request.urlopen(address) as response:
            assert response.read() == LARGE

    @pytest.mark.usefixtures("naps")
    def test_redirect_to_an_address_without_tls(self, hub: HubServer, mirror: HubServer) -> None:
        mirror.redirect(self.PATH, hub.serve("/a.pth", b"plain"))
        assert huggingface_hub.get_session().get(mirror.url + self.PATH).content == b"plain"
        mirror.add(NAME, "sidd.safetensors", LARGE)
        mirror.cdn = hub.cdn_url
        assert Path(hf_hub_download(NAME, "sidd.safetensors", endpoint=mirror.url)).read_bytes() == LARGE
        assert [request.method for request in hub.asked(path="/cdn/")] == ["GET"]

    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.usefixtures("naps")
    def test_cut_over_tls(self, mirror: HubServer, reset: bool) -> None:
        address = mirror.serve(self.PATH, LARGE)
        mirror.fault(Cut(0.5, reset=reset))
        # A reset under TLS reads as the end of the stream or as a reset, by the versions of Python and OpenSSL.
        with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
            huggingface_hub.get_session().get(address)
        assert huggingface_hub.get_session().get(address).content == LARGE

    def test_certificate_is_not_trusted_by_itself(self, mirror: HubServer) -> None:
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            httpx2.get(mirror.url)
        with pytest.raises(urllib.error.URLError, match="certificate"):
            urllib.request.urlopen(mirror.url)
        assert mirror.requests == []

    def test_a_hub_over_tls_in_a_subprocess(self, mirror: HubServer, tmp_path: Path) -> None:
        mirror.add(NAME, "sidd.safetensors", LARGE)
        mirror.repository(NAME, private=True)
        program = "import sys, huggingface_hub; print(huggingface_hub.hf_hub_download(*sys.argv[1:]), end='')"
        command = [sys.executable, "-c", program, NAME, "sidd.safetensors"]
        variables = os.environ | environment(mirror, tmp_path / "home", token=TOKEN)
        done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
        assert Path(done.stdout).read_bytes() == LARGE
        assert Path(done.stdout).is_relative_to(tmp_path / "home" / "hub")
        assert [request.token for request in mirror.requests] == [TOKEN, None]
