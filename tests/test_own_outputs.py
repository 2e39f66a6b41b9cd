"""What kbnet has made is no photo to restore again, where inputs and outputs share a folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from kbnet_cli.batch import Order, jobs
from kbnet_cli.errors import UsageError
from kbnet_cli.journal import NAME, Entry, Journal, Stamp
from tests import test_cli
from tests.pictures import write_picture
from tests.test_cli import Call

kbnet = test_cli.kbnet


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos in p, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("1.png", "2.png"):
        write(tmp_path / "p" / name)
    return tmp_path


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, size=(8, 8))
    return path


def make(source: Path, output: Path, *, task: str = "denoise", folder: Path | None = None) -> None:
    """Make an output, and tell of it in the journal."""
    read, written = (Stamp.of(path.read_bytes(), path.stat()) for path in (source, write(output)))
    entry = Entry(output.absolute(), source.absolute(), read, written, "", (), 0.1, 0.1, task)
    Journal(folder or output.parent, {}, photos=1).promise(entry)


def beside(*inputs: str, done: str = "denoised") -> Order:
    return Order(tuple(map(Path, inputs)), done, existing="resume")


def planned(order: Order) -> list[str]:
    return [job.source.as_posix() for job in jobs(order)]


def test_outputs_beside_inputs_are_no_inputs_of_a_pattern(here: Path) -> None:
    make(here / "p/1.png", here / "p/1_denoised.png")
    for existing in ("resume", "skip", "overwrite", "error"):
        assert planned(replace(beside("p/*.png"), existing=existing)) == ["p/1.png", "p/2.png"]
    assert planned(beside(str(here / "p/../p/*.png")))[0].endswith("1.png")
    (here / "q").symlink_to("p")
    assert planned(beside("q/*.png")) == ["q/1.png", "q/2.png"]


def test_outputs_in_the_folder_of_their_inputs_are_no_inputs(here: Path) -> None:
    write(here / "p/x/3.png")
    make(here / "p/x/3.png", here / "p/x/3_denoised.png", folder=here / "p")
    order = Order(
        (Path("p"),), "denoised", "{stem}_{done}.{ext}", output=Path("p"), output_is_folder=True, recursive=True
    )
    assert planned(order) == ["p/1.png", "p/2.png", "p/x/3.png"]
    assert planned(replace(order, inputs=(Path("p/**/*.png"),))) == ["p/1.png", "p/2.png", "p/x/3.png"]
    names = here / "list"
    names.write_text("p/1.png\np/x/3_denoised.png\np/x/3.png\n", encoding="utf-8")
    assert planned(replace(order, inputs=(), list_file=names)) == ["p/1.png", "p/x/3.png"]
    assert "p/x/3_denoised.png" in planned(replace(order, output=Path("new"))), "another folder, another journal"


def test_a_folder_that_was_moved_is_still_known(here: Path) -> None:
    make(here / "p/1.png", here / "p/1_denoised.png")
    (here / "p").rename(here / "moved")
    assert planned(beside("moved/*.png")) == ["moved/1.png", "moved/2.png"]


def test_an_output_that_somebody_has_edited_stays_an_output(here: Path) -> None:
    make(here / "p/1.png", here / "p/1_denoised.png")
    write_picture(here / "p/1_denoised.png", size=(9, 9))
    assert planned(beside("p/*.png")) == ["p/1.png", "p/2.png"]
    (here / "p/1.png").unlink()
    assert planned(beside("p/*.png")) == ["p/1_denoised.png", "p/2.png"], "nothing else says whose it is"


def test_an_output_whose_input_has_gone_is_not_restored_again_by_the_same_verb(here: Path) -> None:
    make(here / "p/1.png", here / "p/1_denoised.png")
    (here / "p/1.png").unlink()
    assert planned(beside("p/*.png")) == ["p/2.png"]
    (here / "p/2.png").unlink()
    with pytest.raises(UsageError, match="no photos but those that kbnet has denoised already: 1") as caught:
        jobs(beside("p/*.png"))
    assert "name it" in caught.value.hint


def test_what_one_verb_made_another_may_take(here: Path) -> None:
    make(here / "p/1.png", here / "p/1_denoised.png")
    make(here / "p/1_denoised.png", here / "p/1_denoised_derained.png", task="derain")
    assert planned(beside("p/*_denoised.png", done="derained")) == ["p/1_denoised.png"]
    assert planned(beside("p/*.png", done="derained")) == ["p/1.png", "p/2.png"]


def test_what_is_named_is_meant_and_the_error_tells_a_way_on(here: Path) -> None:
    make(here / "p/1.png", here / "p/1_denoised.png")
    assert planned(beside("p/1_denoised.png")) == ["p/1_denoised.png"]
    with pytest.raises(UsageError, match="is one of the inputs") as caught:
        jobs(beside("p/1.png", "p/1_denoised.png"))
    assert "leave out what kbnet made" in caught.value.hint
    assert "-o FOLDER/" in caught.value.hint


def test_what_no_journal_knows_stays_an_input(here: Path) -> None:
    write(here / "p/1_denoised.png")
    for journal in (False, True):
        if journal:
            (here / "p" / NAME).write_bytes(b"no journal\n")
        with pytest.raises(UsageError, match=r"1_denoised\.png: is one of the inputs"):
            jobs(beside("p/*.png"))


@pytest.mark.parametrize("words", [("p/*.png",), ("p", "-r", "-o", "p/", "--name", "{stem}_{done}.{ext}")])
def test_the_same_command_goes_on(words: tuple[str, ...], kbnet: Call, here: Path, identity_weights: Path) -> None:
    call = ("denoise", *words, "--resume", "-w", identity_weights)
    assert kbnet(*call).code == 0
    write(here / "p/3.png")
    made = {name: (here / "p" / name).stat().st_ino for name in ("1_denoised.png", "2_denoised.png")}
    again = kbnet(*call)
    assert again.code == 0, again.stderr
    names = {path.name for path in (here / "p").glob("*.png")}
    assert names == {*(f"{number}.png" for number in "123"), *(f"{number}_denoised.png" for number in "123")}
    assert all((here / "p" / name).stat().st_ino == inode for name, inode in made.items())


def test_a_list_that_has_the_outputs_too_goes_on(kbnet: Call, here: Path, identity_weights: Path) -> None:
    call = ("denoise", "--from-list", "list", "-o", "clean/", "--resume", "-w", identity_weights)
    for _ in range(2):
        found = sorted(path.relative_to(here) for path in here.rglob("*.png"))
        (here / "list").write_text("".join(f"./{path}\n" for path in found), encoding="utf-8")
        done = kbnet(*call)
        assert done.code == 0, done.stderr
    assert len(found) == 4
    assert sorted(path.relative_to(here).as_posix() for path in (here / "clean").rglob("*.png")) == [
        "clean/p/1.png",
        "clean/p/2.png",
    ]
