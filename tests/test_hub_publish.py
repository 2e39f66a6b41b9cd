"""Weights into the Hub, through the real client: checked before a byte is sent, one commit, a card without lies."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from kbnet_cli import catalogue, checkpoint, cli
from kbnet_cli.catalogue import Entry, Facts, Figure, Source
from kbnet_cli.errors import UsageError, WeightsError
from kbnet_cli.hub import card, publish
from kbnet_cli.hub.card import Section
from kbnet_cli.hub.edition import Order, Ready, edition
from kbnet_cli.hub.library import Library
from kbnet_cli.hub.shelf import sha256
from kbnet_cli.networks.kbnet_s import KBNetSSizes
from kbnet_cli.settings import Places
from tests.hub_client import in_this_process
from tests.hub_faults import Cut, Fault, HangUp, Refuse, Reply
from tests.hub_server import TOKEN, HubServer
from tests.networks import random_network, save

# huggingface_hub uploads large files with a word that httpx2 no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

SIZES = KBNetSSizes(width=4, encoder_blocks=(1,), middle_blocks=0, decoder_blocks=(0,), lightweight=True)
REPOSITORY = "owner/name"
PARAMETERS = sum(parameter.numel() for parameter in random_network(SIZES).parameters())
TINY_ENTRY = Entry(
    name="tiny",
    summary="rain in a test tube",
    architecture="KBNet-S",
    width=4,
    channels=3,
    parameters=PARAMETERS,
    facts=Facts(task="derain", tile=96, limit=(-0.5, 1.5)),
    licence="MIT",
    figures=(Figure("Test1", 30.5),),
    sources=(Source("hf:authors/place/tiny.pth"),),
)
UNTOUCHED = {".gitattributes"}
"""The files of a repository that has only been made."""


@dataclass(frozen=True)
class Result:
    """What a call of the command gave."""

    code: int
    stdout: str
    stderr: str


Call = Callable[..., Result]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub in which this process is logged in, without naps between tries."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)
    with HubServer() as server, in_this_process(server, tmp_path / "huggingface", token=TOKEN):
        yield server


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Call `kbnet weights publish` as the installed command does."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*words: str | Path, repository: str = REPOSITORY, say: str | None = "--yes") -> Result:
        fixed = ["kbnet", "weights", "publish", "--repo", repository, "--weights-folder", str(tmp_path / "kept")]
        monkeypatch.setattr(sys, "argv", [*fixed, *([say] if say else []), *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return call


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(Places(hub_repo=REPOSITORY, weights_folder=tmp_path / "kept"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Weights that say what they are for."""
    return save(random_network(SIZES), tmp_path / "own.safetensors", task="denoise", tile="64", sigma="25")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Weights that say nothing."""
    return save(random_network(SIZES, seed=1), tmp_path / "bare.safetensors")


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    """Weights in torch's form."""
    torch.save({"params": random_network(SIZES, seed=1).state_dict()}, tmp_path / "gau.pth")
    return tmp_path / "gau.pth"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ready, ...]]:
    """Two files that have been made ready."""
    folder = tmp_path_factory.mktemp("ready")
    given = [
        str(save(random_network(SIZES, seed=seed), folder / f"{seed}.safetensors", task="denoise")) for seed in (0, 1)
    ]
    with edition(Library(Places(weights_folder=folder)), Order(tuple(given), licence="mit"), nobody) as made:
        yield made


def publish_all(ready: tuple[Ready, ...]) -> tuple[publish.Published, ...]:
    publish.check_login(REPOSITORY)
    return publish.upload(publish.look(REPOSITORY, private=False), ready)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A catalogue of one entry."""
    monkeypatch.setattr(catalogue, "ENTRIES", (TINY_ENTRY,))
    return TINY_ENTRY


@pytest.fixture
def fetched(tiny: Entry, hub: HubServer, library: Library, pth: Path) -> Path:
    """The weights of that entry, from its source."""
    hub.add("authors/place", "tiny.pth", pth.read_bytes())
    path = library.pull("tiny")
    hub.forget()
    return path


def nobody(_text: str) -> None:
    """Be told."""


def same_tensors(path: Path, seed: int, dtype: torch.dtype = torch.float32) -> bool:
    expected = random_network(SIZES, seed=seed).state_dict()
    found = load_file(path)
    return found.keys() == expected.keys() and all(
        found[key].dtype == dtype and torch.equal(found[key], expected[key].to(dtype)) for key in expected
    )


def files(hub: HubServer) -> dict[str, bytes]:
    return hub.files(REPOSITORY)


def read_card(hub: HubServer) -> str:
    return files(hub)["README.md"].decode()


def changes(hub: HubServer) -> list[str]:
    """What was asked of the Hub that would change something in it."""
    changing = hub.asked("PUT|POST", "^/lfs/|/commit/|/repos/create")
    return [request.path for request in changing]


class Terminal(StringIO):
    """A user at the keyboard."""

    def isatty(self) -> bool:
        return True


# There and back


def test_what_is_published_is_fetched_as_it_was(
    hub: HubServer, command: Call, library: Library, tiny: Entry, own: Path, pth: Path
) -> None:
    done = command(pth, "--as", "tiny", "--licence", "mit")
    assert done.code == 0
    commit = hub.repository(REPOSITORY).branches["main"]
    digest = library.pull("tiny"), sha256(library.path("tiny"))
    assert done.stdout == f"hf:owner/name/tiny.safetensors@{commit} sha256 {digest[1]}\n"
    assert same_tensors(digest[0], seed=1)
    assert checkpoint.load(digest[0]).facts == tiny.facts

    done = command(own, "--licence", "apache-2.0", "--json")
    (told,) = map(json.loads, done.stdout.splitlines())
    assert (told["event"], told["file"], told["licence"]) == ("published", "own.safetensors", "apache-2.0")
    path = library.pull(told["address"])
    assert same_tensors(path, seed=0)
    assert (sha256(path), path.stat().st_size) == (told["sha256"], told["size_bytes"])
    assert checkpoint.load(path).facts.sigma == (25, 25)
    assert files(hub).keys() == UNTOUCHED | {"README.md", "weights.json", "own.safetensors", "tiny.safetensors"}
    assert [path.name for path in library.shelf.folder.glob(".publish*")] == []


def test_several_files_are_one_commit(hub: HubServer, command: Call, own: Path, pth: Path) -> None:
    done = command(own, pth, "--licence", "mit", "--dtype", "bf16")
    assert [line.split("@")[0] for line in done.stdout.splitlines()] == [
        "hf:owner/name/gau.safetensors",
        "hf:owner/name/own.safetensors",
    ]
    assert len(hub.repository(REPOSITORY).commits) == 2, "the Hub's first, and ours"
    assert done.stderr.splitlines() == [
        f"converting {own}",
        f"converting {pth}",
        "publishing own.safetensors (0.0 MB)",
        "publishing gau.safetensors (0.0 MB)",
    ], "and none of huggingface_hub's bars"


def test_numbers_in_bfloat16(hub: HubServer, command: Call, library: Library, own: Path) -> None:
    assert command(own, "--licence", "mit", "--dtype", "bf16", "--quiet").stderr == ""
    assert same_tensors(library.pull("hf:owner/name/own.safetensors"), seed=0, dtype=torch.bfloat16)
    assert "| numbers | bfloat16 |" in read_card(hub)


def test_weights_of_this_machine_are_published_by_name(hub: HubServer, command: Call, fetched: Path, pth: Path) -> None:
    assert command("tiny", "--dtype", "bf16").code == 0
    told = read_card(hub)
    assert "| licence | mit |" in told
    assert "rain in a test tube." in told
    assert "| Test1 | 30.50 |" in told
    assert "The paper's, for the authors' weights, before the weights were rounded to the numbers of this file." in told
    assert f"| from | hf:authors/place/tiny.pth, converted from a file with sha256 `{sha256(pth)}`" in told


def test_a_file_that_was_imported_under_a_name_is_not_passed_off_as_the_authors(
    hub: HubServer, command: Call, library: Library, tiny: Entry, bare: Path
) -> None:
    library.import_file(bare, "tiny")
    refused = command("tiny")
    assert refused.code == 2
    assert "error: tiny: its licence is not known: it came from no source of the catalogue\n" in refused.stderr
    assert changes(hub) == []
    assert command("tiny", "--licence", "cc0-1.0").code == 0
    told = read_card(hub)
    assert "| licence | cc0-1.0 |" in told
    assert "### Figures\n\nNot known." in told
    assert tiny.summary not in told
    assert f"converted from a file with sha256 `{sha256(bare)}`" in told
    assert str(bare.parent) not in told + files(hub)["weights.json"].decode(), "nothing of this machine"


def test_what_was_fetched_says_where_it_is_from(hub: HubServer, command: Call, library: Library, own: Path) -> None:
    hub.add("other/place", "folder/a.safetensors", own.read_bytes())
    library.pull("hf:other/place/folder/a.safetensors")
    assert command("hf:other/place/folder/a.safetensors", "--licence", "mit").code == 0
    assert "a.safetensors" in files(hub)
    assert "| from | hf:other/place/folder/a.safetensors" in read_card(hub)


def test_secrets_in_an_address_are_not_told(command: Call, library: Library, own: Path) -> None:
    library.shelf.folder.mkdir()
    origin = "https://example.org/a.pth?key=secret#part"
    library.shelf.put("mine", own, origin=origin, origin_sha256="0" * 64)
    done = command("mine", "--licence", "mit", "--dry-run", say=None)
    assert "| from | https://example.org/a.pth, converted from a file with sha256 `0000" in done.stdout


def test_the_same_again_makes_no_commit(hub: HubServer, command: Call, own: Path) -> None:
    first = command(own, "--licence", "mit")
    hub.forget()
    assert command(own, "--licence", "mit").stdout == first.stdout
    assert changes(hub) == []


def test_large_files_go_the_way_that_the_rules_of_the_client_hold_for(
    hub: HubServer, command: Call, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet", reason="without it huggingface_hub has no other way")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    done = command(own, "--licence", "mit")
    assert (done.code, len(hub.asked("PUT", "^/lfs/"))) == (0, 1), done.stderr


# The folder in which files are made ready

WAIT = """
import sys
from pathlib import Path
from kbnet_cli.hub.edition import Order, edition
from kbnet_cli.hub.library import Library
from kbnet_cli.settings import Places
library = Library(Places(weights_folder=Path(sys.argv[1])))
with edition(library, Order((sys.argv[2],), licence="mit"), lambda text: print(text, flush=True)):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_leaves_is_swept_by_the_next_and_nothing_that_is_in_use(
    library: Library, own: Path
) -> None:
    def start() -> subprocess.Popen[str]:
        words = [sys.executable, "-c", WAIT, str(library.shelf.folder), str(own)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def folders() -> list[Path]:
        return sorted(library.shelf.folder.glob(".publish*"))

    with start() as killed:
        assert killed.stdout is not None
        assert [killed.stdout.readline() for _ in range(2)] == [f"converting {own}\n", "ready\n"]
        (in_use,) = folders()
        with start() as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "another kbnet is publishing; waiting\n"
            assert folders() == [in_use]
            killed.kill()
            killed.wait()
            assert other.stdout.readline() == f"converting {own}\n"
            assert in_use not in folders()
            other.communicate()
    assert other.returncode == 0
    assert folders() == []


# The card


def test_the_card_is_the_hubs_kind(hub: HubServer, command: Call, own: Path, tmp_path: Path) -> None:
    assert command(own, "--licence", "MIT", "--training-data", "seven photos | of cats").code == 0
    assert {request.status for request in hub.asked("POST", "/api/validate-yaml")} == {200}
    loaded = ModelCard.load(REPOSITORY)
    metadata: dict[str, object] = loaded.data.to_dict()
    assert metadata == {
        "license": "mit",
        "library_name": "kbnet",
        "pipeline_tag": "image-to-image",
        "tags": ["kbnet", "image-restoration", "denoise"],
    }
    for words in (
        "(https://arxiv.org/abs/2303.02881)",
        "\n    kbnet denoise photo.jpg -w hf:owner/name/own.safetensors\n",
        "| network | KBNet-S: image channels 3, width 4, encoder blocks 1, middle blocks 0, decoder blocks 0, light",
        f"| parameters | {PARAMETERS:,} |",
        "| tile | 64 |",
        "| noise | σ 25, in 1/255 |",
        f"| sha256 | `{sha256_of(files(hub)['own.safetensors'])}` |",
        "### Figures\n\nNot known.",
        "### Training data\n\nseven photos | of cats\n",
    ):
        assert words in loaded.text


def sha256_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_what_is_not_known_is_said_to_be_unknown(hub: HubServer, command: Call, bare: Path) -> None:
    assert command(bare, "--licence", "other").code == 0
    told = read_card(hub)
    assert "| task | not known |" in told
    assert "| tile | 256 (assumed: the file does not say) |" in told
    assert "### Training data\n\nNot known." in told
    assert "| from | a file of whoever published it here, converted from a file with sha256" in told


def test_a_file_that_is_only_called_like_one_of_the_catalogue_has_not_its_figures(
    hub: HubServer, command: Call, tiny: Entry, bare: Path
) -> None:
    path = bare.rename(bare.with_name("tiny.safetensors"))
    assert "licence is not known" in command(path).stderr
    assert command(path, "--licence", "mit").code == 0
    told = read_card(hub)
    assert "| task | derain |" in told, "what it is for has to be in the file, as when it is imported under the name"
    assert "30.50" not in told
    assert tiny.summary not in told


def test_a_second_publication_keeps_the_words_on_the_first(
    hub: HubServer, command: Call, own: Path, bare: Path
) -> None:
    command(own, "--licence", "mit", "--training-data", "cats")
    first = read_card(hub)
    assert command(bare, "--licence", "cc-by-4.0").code == 0
    both = read_card(hub)
    assert first[first.index("## own.safetensors") :] in both
    assert "\nlicense: other\nlicense_name: each-file-has-its-own\n" in both
    again = random_network(SIZES, seed=2)
    assert command(save(again, own, task="derain"), "--licence", "mit").code == 0
    assert read_card(hub).count("## own.safetensors") == 1
    assert "cats" not in read_card(hub), "that was the file that it has replaced"
    assert "## bare.safetensors" in read_card(hub)


def test_files_that_are_gone_or_others_lose_their_words(hub: HubServer, command: Call, own: Path, bare: Path) -> None:
    command(own, bare, "--licence", "mit")
    hub.add(REPOSITORY, "own.safetensors", b"something else")
    assert command(bare, "--as", "other", "--licence", "mit").code == 0
    names = [entry["file"] for entry in json.loads(files(hub)["weights.json"])["files"]]
    assert names == ["bare.safetensors", "other.safetensors"]
    assert files(hub)["own.safetensors"] == b"something else"


def test_the_text_of_a_card_beside_the_file_is_taken(hub: HubServer, command: Call, tmp_path: Path) -> None:
    path = save(random_network(SIZES), tmp_path / "a.safetensors", task="denoise", card="about.md")
    (tmp_path / "about.md").write_text(
        "---\nlicense: wtf\n---\n# a\n\n## Data\nσ\n```\n# code\n```\n", encoding="utf-8"
    )
    done = command(path, "--licence", "mit")
    assert f"the text of {tmp_path / 'about.md'} becomes part of the card" in done.stderr
    assert "### The card it came with\n\n#### Data\nσ\n```\n# code\n```" in read_card(hub)
    assert "wtf" not in read_card(hub)
    assert command(path, "--as", "b", "--licence", "mit").code == 0
    assert read_card(hub).count("#### Data") == 2


@pytest.mark.parametrize("named", ["../secret.md", "secret.txt", "link.md", "none.md", "folder.md", "", "a\0b.md"])
def test_a_file_cannot_name_what_should_not_be_read(named: str, command: Call, tmp_path: Path) -> None:
    (tmp_path / "in" / "folder.md").mkdir(parents=True)
    for secret in (tmp_path / "secret.md", tmp_path / "in" / "secret.txt"):
        secret.write_text("the secret")
    (tmp_path / "in" / "link.md").symlink_to(tmp_path / "secret.md")
    path = save(random_network(SIZES), tmp_path / "in" / "a.safetensors", task="denoise", card=named)
    done = command(path, "--licence", "mit", "--dry-run", say=None)
    assert done.code == 0
    assert "the card that it names is not beside it" in done.stderr
    assert "secret" not in done.stdout


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 100_001])
def test_a_card_that_is_none_is_refused(content: bytes, command: Call, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(content)
    path = save(random_network(SIZES), tmp_path / "a.safetensors", card="a.md")
    assert "a.md: " in command(path, "--licence", "mit", "--dry-run", say=None).stderr.splitlines()[-2]


def test_the_bundled_weights_are_told_of_whole(command: Call) -> None:
    done = command("denoise-small", "--dry-run", say=None)
    assert done.code == 0
    entry = catalogue.find("denoise-small")
    assert entry is not None
    last = entry.figures[-1]
    assert (
        f"| {last.pictures} | {last.before:.2f} | {last.psnr:.2f} |\n\nMeasured with `kbnet evaluate`.\n" in done.stdout
    )
    assert "| from | comes with kbnet" in done.stdout
    assert "#### How it was made\n    kbnet train weights/denoise-small.toml" in done.stdout
    assert "Not known." not in done.stdout


def test_a_dry_run_makes_no_connection(
    command: Call, own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    done = command(own, "--licence", "mit", "--dry-run", say=None)
    assert done.code == 0
    assert done.stdout.startswith("---\nlicense: mit\n") or "\nlicense: mit\n" in done.stdout
    assert "nothing is sent" in done.stderr
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [".locks"]


def test_a_table_is_read_as_it_was_written() -> None:
    known = Section(
        *("a.safetensors", "0" * 64, 1, "KBNet-S", "width 8", 2, "float32", 64, (0.0, 1.0), True, "mit"),
        summary="ü|",
        figures=(Figure("Kodak24", 30.0),),
        sigma=(0.0, 55.0),
    )
    unknown = replace(known, file="b.safetensors", told=False, summary=None, figures=(), sigma=None)
    table = card.table_of([known, unknown])
    assert card.sections_from(table, "table") == (known, unknown)
    assert card.card("o/n", [unknown, known]) == card.card("o/n", [known, unknown])


# What is refused before a byte is sent


def test_a_licence_is_never_invented(hub: HubServer, command: Call, own: Path, tiny: Entry) -> None:
    done = command(own)
    assert done.code == 2
    assert "own.safetensors: its licence is not known" in done.stderr
    assert "--licence mit, apache-2.0" in done.stderr
    assert "not an identifier" in command(own, "--licence", "do what you like").stderr
    assert changes(hub) == []


def test_a_licence_that_the_hub_does_not_know(hub: HubServer, command: Call, own: Path) -> None:
    done = command(own, "--licence", "wtfl")
    assert done.code == 2
    assert 'the Hub does not take the card: "license" must be one of' in done.stderr
    assert changes(hub) == [], "not even a repository is made"


def test_a_licence_that_is_known_is_not_given_again(command: Call, fetched: Path, bare: Path, hub: HubServer) -> None:
    assert "the catalogue knows it" in command("tiny", "--licence", "cc0-1.0").stderr
    assert command("tiny", bare, "--licence", "cc0-1.0").code == 0
    assert {"| licence | mit |", "| licence | cc0-1.0 |"} <= set(read_card(hub).splitlines())


def test_without_a_login(hub: HubServer, command: Call, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(checkpoint, "convert", lambda *_, **__: pytest.fail("converted in vain"))
    done = command(own, "--licence", "mit")
    assert done.code == 2
    assert done.stderr == ("error: publishing needs a login in the Hub\nhint: hf auth login, or set HF_TOKEN\n")
    assert hub.connections == 0


def test_a_wrong_token(hub: HubServer, command: Call, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = command(own, "--licence", "mit")
    assert done.code == 2
    assert f"error: {hub.url}/owner/name: refused (401)" in done.stderr
    assert "hint: log in with hf auth login" in done.stderr
    assert changes(hub) == []


def test_a_token_that_may_only_read(hub: HubServer, command: Call, own: Path) -> None:
    hub.serve("/api/whoami-v2", b'{"name": "tester", "auth": {"accessToken": {"role": "read"}}}')
    assert "error: the Hub's token may only read" in command(own, "--licence", "mit").stderr
    assert changes(hub) == []


def test_offline(hub: HubServer, command: Call, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = command(own, "--licence", "mit")
    assert "HF_HUB_OFFLINE forbids publishing" in done.stderr
    assert hub.requests == []


def test_one_bad_file_stops_all(hub: HubServer, command: Call, own: Path, tmp_path: Path, library: Library) -> None:
    network = random_network(SIZES)
    network.intro.weight[0, 0, 0, 0] = float("nan")
    done = command(own, save(network, tmp_path / "bad.safetensors"), "--licence", "mit")
    assert done.code == 2
    assert "bad.safetensors: not a whole KBNet" in done.stderr
    assert changes(hub) == []
    assert [path.name for path in library.shelf.folder.iterdir()] == [".locks"], "nothing is left"


def test_two_files_of_one_name(hub: HubServer, command: Call, own: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = save(random_network(SIZES), tmp_path / "other" / "Own.safetensors")
    done = command(own, other, "--licence", "mit")
    assert f"error: {own} and {other} would both be Own.safetensors" in done.stderr
    assert "--as names one file" in command(own, other, "--as", "x", "--licence", "mit").stderr
    assert changes(hub) == []


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "Ä", "a@main", "-x", "a" * 101, ".safetensors"])
def test_names_that_cannot_be_are_refused(name: str, library: Library, own: Path) -> None:
    with (
        pytest.raises(UsageError, match="not a name"),
        edition(library, Order((str(own),), name, licence="mit"), nobody),
    ):
        pytest.fail("was made ready")


def test_the_end_of_a_name_is_not_doubled(library: Library, own: Path) -> None:
    with edition(library, Order((str(own),), "sidd-2.safetensors", licence="mit"), nobody) as (ready,):
        assert ready.section.file == ready.path.name == "sidd-2.safetensors"


def test_a_name_of_the_catalogue_for_another_of_its_weights(library: Library) -> None:
    order = Order(("denoise-small",), "sidd")
    with pytest.raises(UsageError, match="denoise-small is not sidd"), edition(library, order, nobody):
        pytest.fail("was made ready")
    with edition(library, replace(order, name="second"), nobody) as (made,):
        assert made.section.file == "second.safetensors"
        assert made.section.figures == catalogue.BUNDLED[0].figures
        assert made.section.origin == "comes with kbnet"


def test_another_network_under_a_name_of_the_catalogue(
    command: Call, tiny: Entry, tmp_path: Path, hub: HubServer
) -> None:
    done = command(
        save(random_network(replace(SIZES, image_channels=1)), tmp_path / "tiny.safetensors"), "--licence", "mit"
    )
    assert f"but tiny is a KBNet-S with {PARAMETERS:,}" in done.stderr
    assert changes(hub) == []


def test_what_is_not_here_cannot_be_published(command: Call, hub: HubServer) -> None:
    assert "sidd: not on this machine" in command("sidd").stderr
    assert "error: none.pth: no such weights" in command("none.pth", "--licence", "mit").stderr
    done = command("denoise-small", repository="https://huggingface.co/owner/name")
    assert "is no repository of the Hub" in done.stderr
    assert changes(hub) == []


# Asking


def test_nobody_to_ask_is_a_no(hub: HubServer, command: Call, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("y\n"))
    done = command(own, "--licence", "mit", say=None)
    assert done.code == 2
    assert "hint: say so with --yes, or see --dry-run" in done.stderr
    assert hub.connections == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_a_user_is_asked(
    answer: str, code: int, hub: HubServer, command: Call, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    done = command(own, "--licence", "mit", say=None)
    assert done.code == code
    assert "publish 1 file (0.0 MB) to owner/name, public? [y/N] " in done.stderr
    assert bool(done.stdout) == bool(changes(hub)) == (code == 0)
    assert done.stdout == "" or done.stdout.startswith("hf:")


def test_what_would_be_replaced_is_told(hub: HubServer, ready: tuple[Ready, ...]) -> None:
    hub.add(REPOSITORY, "README.md", b"# A card that somebody has written")
    hub.add(REPOSITORY, "0.safetensors", b"other weights")
    hub.add(REPOSITORY, "1.safetensors", b"not even large", large=False)
    hub.repository(REPOSITORY, private=True)
    assert publish.question(publish.look(REPOSITORY, private=False), ready) == (
        "publish 2 files (0.1 MB) to owner/name, private, "
        "in place of the 0.safetensors, 1.safetensors, README.md there?"
    )
    publish_all(ready)
    assert publish.look(REPOSITORY, private=False).replaced(ready) == []


def test_private_stays_private(hub: HubServer, command: Call, own: Path, library: Library) -> None:
    assert command(own, "--licence", "mit", "--private").code == 0
    assert hub.repository(REPOSITORY, private=True).private
    assert same_tensors(library.pull("hf:owner/name/own.safetensors"), seed=0)
    hub.repository("owner/public")
    hub.forget()
    done = command(own, "--licence", "mit", "--private", repository="owner/public")
    assert "owner/public: is there already, and public" in done.stderr
    assert changes(hub) == []


def test_a_new_repository_is_as_private_as_was_asked(hub: HubServer, command: Call, own: Path) -> None:
    command(own, "--licence", "mit", "--private")
    command(own, "--licence", "mit", repository="owner/open")
    assert [request.json()["visibility"] for request in hub.asked("POST", "/repos/create")] == ["private", "public"]


# What goes wrong on the way


@pytest.mark.parametrize("fault", [Refuse(500), Refuse(403, message="no rights in owner"), HangUp(reset=True)])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/whoami-v2"),
        ("GET", "/api/models/"),
        ("POST", "/api/validate-yaml"),
        ("POST", "/api/repos/create"),
        ("POST", "/preupload/"),
        ("POST", "/objects/batch"),
        ("PUT", "/lfs/"),
        ("POST", "/commit/"),
    ],
)
def test_nothing_is_half_there(fault: Fault, method: str, path: str, hub: HubServer, ready: tuple[Ready, ...]) -> None:
    hub.fault(fault, method=method, path=path, times=None)
    with pytest.raises(WeightsError) as caught:
        publish_all(ready)
    message = caught.value.message
    assert message.startswith(f"{hub.url}/owner/name: ")
    if isinstance(fault, Refuse):
        assert f"({fault.status})" in message
        assert ("no rights in owner" in message) == (fault.status == 403)
    else:
        assert "no connection" in message
    assert (caught.value.hint == publish.LOG_IN) == (fault == Refuse(403, message="no rights in owner"))
    hub.heal()
    if hub.asked("POST", "/repos/create")[-1:] and "create" not in path:
        assert files(hub).keys() == UNTOUCHED
        assert len(hub.repository(REPOSITORY).commits) == 1
    assert len(publish_all(ready)) == 2
    assert len(hub.repository(REPOSITORY).commits) == 2


@pytest.mark.parametrize("fault", [Refuse(503), Refuse(412), HangUp(), Cut(0.0), Cut(0.5, reset=True)])
def test_what_passes_is_tried_again(fault: Fault, hub: HubServer, ready: tuple[Ready, ...]) -> None:
    for path in ("/api/whoami-v2", "/api/models/", "/repos/create", "/objects/batch", "/commit/"):
        if fault != Refuse(412) or path == "/commit/":
            hub.fault(fault, method="GET|POST", path=path)
    assert len(publish_all(ready)) == 2
    assert len(hub.repository(REPOSITORY).commits) == 2, "also where the first answer was lost and the commit made"


def test_a_table_that_does_not_arrive_is_not_taken_for_an_empty_one(hub: HubServer, ready: tuple[Ready, ...]) -> None:
    publish_all(ready[:1])
    before = files(hub)
    hub.fault(Refuse(500), method="GET|HEAD", path="/resolve/", times=None)
    with pytest.raises(WeightsError, match=r"owner/name: "):
        publish_all(ready[1:])
    assert files(hub) == before


def test_a_repository_of_others_that_cannot_be_seen(hub: HubServer, ready: tuple[Ready, ...]) -> None:
    hub.repository(REPOSITORY)
    hub.fault(Refuse(404, "RepoNotFound"), path="/api/models/", times=None)
    with pytest.raises(WeightsError, match="cannot be seen with this token"):
        publish_all(ready)
    assert files(hub).keys() == UNTOUCHED


def test_somebody_else_publishes_meanwhile(
    hub: HubServer, ready: tuple[Ready, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = publish._validate
    others = iter([ready[1:]])

    def interrupted(text: str) -> None:
        validate(text)
        for other in others:
            publish_all(other)

    hub.repository(REPOSITORY)
    monkeypatch.setattr(publish, "_validate", interrupted)
    publish_all(ready[:1])
    assert [request.status for request in hub.asked("POST", "/commit/")] == [200, 412, 200]
    assert {"0.safetensors", "1.safetensors"} <= files(hub).keys()
    assert [entry["file"] for entry in json.loads(files(hub)["weights.json"])["files"]] == [
        "0.safetensors",
        "1.safetensors",
    ]
    assert len(hub.asked("PUT")) == 2, "nothing is sent twice"


def test_a_repository_that_becomes_public_meanwhile(hub: HubServer, ready: tuple[Ready, ...]) -> None:
    hub.repository(REPOSITORY, private=True)
    destination = publish.look(REPOSITORY, private=False)
    hub.repository(REPOSITORY, private=False)
    with pytest.raises(WeightsError, match="and public"):
        publish.upload(destination, ready)
    assert changes(hub) == []


@pytest.mark.parametrize(
    "table",
    [b"", b"{}", b"[]", b"\xff", b'{"format": 1, "files": [{}]}', b'{"format": 1, "files": 5}', b"[" * 100_000],
)
def test_a_damaged_table_is_not_taken_for_an_empty_one(table: bytes, hub: HubServer, ready: tuple[Ready, ...]) -> None:
    hub.add(REPOSITORY, "weights.json", table)
    with pytest.raises(WeightsError, match=r"^hf:owner/name/weights.json: damaged"):
        publish_all(ready)
    assert files(hub).keys() == UNTOUCHED | {"weights.json"}


@pytest.mark.parametrize(
    ("field", "value"), [("file", 5), ("sigma", [1, 2, 3]), ("figures", [{}]), ("licence", None), ("more", 1)]
)
def test_a_table_with_a_wrong_value_is_damaged(
    field: str, value: Any, hub: HubServer, ready: tuple[Ready, ...]
) -> None:
    table = json.loads(card.table_of([each.section for each in ready]))
    table["files"][1][field] = value
    hub.add(REPOSITORY, "weights.json", json.dumps(table).encode())
    with pytest.raises(WeightsError, match=r"weights.json: damaged"):
        publish_all(ready[:1])
    assert ready[0].section.file not in files(hub)


def test_a_table_of_a_newer_kbnet_or_too_large(
    hub: HubServer, ready: tuple[Ready, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPOSITORY, "weights.json", b'{"format": 2}')
    with pytest.raises(WeightsError, match=r"weights.json: made by a newer kbnet"):
        publish_all(ready)
    monkeypatch.setattr(publish, "LARGEST_TABLE_BYTES", 12)
    with pytest.raises(WeightsError, match=r"weights.json: too large to be ours"):
        publish_all(ready)
    assert files(hub).keys() == UNTOUCHED | {"weights.json"}


@dataclass(frozen=True)
class Exchanged(Fault):
    """Say something else in an answer."""

    said: bytes
    instead_of_it: bytes

    def spoil(self, reply: Reply) -> Reply:
        return replace(reply, body=reply.body.replace(self.said, self.instead_of_it))


def test_what_the_hub_has_in_the_end_is_compared(hub: HubServer, ready: tuple[Ready, ...]) -> None:
    digest = ready[0].section.sha256
    hub.fault(Exchanged(digest.encode(), b"0" * 64), path="/revision/")
    with pytest.raises(WeightsError, match=f"the Hub has sha256 {'0' * 64}, sent was {digest}"):
        publish_all(ready)


def test_a_full_disk_is_told(library: Library, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "convert", full)
    with (
        pytest.raises(WeightsError, match="No space left"),
        edition(library, Order((str(own),), licence="mit"), nobody),
    ):
        pytest.fail("was made ready")
