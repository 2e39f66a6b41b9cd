"""What --resume may put in an output's place, and what it may not."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from kbnet_cli.batch import Job, Journals, Order, Outcome, Restored, jobs, process, writing
from kbnet_cli.journal import NAME, remove_stale_partials
from kbnet_cli.photo import Photo
from tests import test_cli
from tests.pictures import write_picture
from tests.test_cli import Call

kbnet = test_cli.kbnet
DENOISE = {"task": "denoise"}


def restored(_job: Job, photo: Photo) -> Restored:
    return Restored(photo)


def resumed(folder: Path, source: str, settings: Mapping[str, object] = DENOISE) -> Outcome:
    order = Order((folder / source,), "denoised", output=folder / "out", output_is_folder=True, existing="resume")
    journals = Journals(order, settings, photos=1, unchanged=lambda _used: True)
    (outcome,) = process(jobs(order), order, restored, journals=journals)
    return outcome


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """Two cards of a camera that counted from 1 on each."""
    for card in ("a", "b"):
        (tmp_path / card).mkdir()
        write_picture(tmp_path / card / "1.png", size=(8, 8) if card == "a" else (9, 9))
    return tmp_path


def test_another_photo_of_the_same_name_does_not_take_an_output(cards: Path) -> None:
    assert resumed(cards, "a/1.png").status == "done"
    before = (cards / "out/1.png").read_bytes()
    refused = resumed(cards, "b/1.png")
    assert refused.status == "failed"
    assert refused.error is not None
    assert f"is that of {cards}/a/1.png" in refused.error.message
    assert (cards / "out/1.png").read_bytes() == before
    (cards / "a").rename(cards / "moved")
    assert resumed(cards, "moved/1.png").status == "kept", "the same photo, wherever it lies"
    write_picture(cards / "moved/1.png", size=(10, 10))
    assert resumed(cards, "moved/1.png").status == "failed"


def test_another_task_does_not_take_an_output(cards: Path) -> None:
    assert resumed(cards, "a/1.png").status == "done"
    refused = resumed(cards, "a/1.png", {"task": "derain"})
    assert refused.error is not None
    assert refused.error.message.endswith("was made to denoise, not to derain")
    assert resumed(cards, "a/1.png").status == "kept"
    assert resumed(cards, "a/1.png", {"task": "denoise", "strength": 0.5}).status == "done"


def test_an_input_that_is_reached_by_another_path_is_not_overwritten(cards: Path) -> None:
    (cards / "out").mkdir()
    os.link(cards / "a/1.png", cards / "out/1.png")  # as through a second mount of one folder
    before = (cards / "a/1.png").read_bytes()
    order = Order((cards / "a/1.png",), "denoised", output=cards / "out", existing="overwrite")
    (outcome,) = process(jobs(order), order, restored)
    assert outcome.error is not None
    assert outcome.error.message.endswith("is one of the inputs")
    assert (cards / "a/1.png").read_bytes() == before


def test_an_output_folder_that_has_gone_is_not_made_anew(cards: Path) -> None:
    write_picture(cards / "a/2.png", size=(8, 8))
    order = Order((cards / "a",), "denoised", output=cards / "out", output_is_folder=True, recursive=True)
    journals = Journals(order, DENOISE, photos=2, unchanged=lambda _used: True)

    def unplugged(job: Job, photo: Photo) -> Restored:
        if job.source.name == "1.png":
            (cards / "out").rename(cards / "elsewhere")
        return Restored(photo)

    outcomes = list(process(jobs(order), order, unplugged, journals=journals))
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    assert all(outcome.error is not None and "has gone" in outcome.error.message for outcome in outcomes)
    assert [path.name for path in (cards / "elsewhere").iterdir()] == [NAME]
    assert not (cards / "out").exists()


def test_a_place_that_takes_nothing_is_told_before_the_network(cards: Path) -> None:
    (cards / "out/1.png").mkdir(parents=True)
    order = Order((cards / "a/1.png",), "denoised", output=cards / "out", existing="overwrite")
    (outcome,) = process(jobs(order), order, lambda _job, _photo: pytest.fail("it was restored"))
    assert outcome.error is not None
    assert "is a folder" in outcome.error.message


def test_a_run_that_found_one_photo_can_go_on(kbnet: Call, cards: Path, identity_weights: Path) -> None:
    words = ("denoise", cards / "a", "-r", "-o", f"{cards}/out/", "-w", identity_weights)
    assert kbnet(*words).code == 0
    write_picture(cards / "a/2.png", size=(8, 8))
    again = kbnet(*words, "--resume")
    assert (again.code, "1 done, 1 kept" in again.stderr) == (0, True)


def test_many_folders_of_outputs_take_one_lock(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    names = [tmp_path / f"many/{number}/a.png" for number in range(60)]
    for name in names:
        name.parent.mkdir(parents=True)
        write_picture(name, size=(8, 8))
    done = kbnet("denoise", *names, "--resume", "-w", identity_weights, "-q")
    assert done.code == 0
    assert not list(tmp_path.rglob(".kbnet-lock"))


@pytest.mark.parametrize("words", [("--strip", "--sidecars"), ("--stream", "--resume")])
def test_options_that_contradict_each_other_are_refused(words: tuple[str, ...], kbnet: Call) -> None:
    assert kbnet("denoise", "-", "-o", "x/", *words).code == 2


def test_a_folder_is_tidied_before_anything_is_begun_in_it(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cards / "out/deep").mkdir(parents=True)
    left = cards / "out/deep/.kbnet-0123456789abcdef.partial"
    left.write_bytes(b"half a picture")
    seen: list[list[Path]] = []

    def tidied(folders: tuple[Path, ...]) -> int:
        seen.append([path for path in writing._unfinished if path.parent in folders])
        return remove_stale_partials(folders)

    monkeypatch.setattr("kbnet_cli.batch.journals.remove_stale_partials", tidied)
    (cards / "tree/deep").mkdir(parents=True)
    write_picture(cards / "tree/deep/1.png", size=(8, 8))
    order = Order(
        (cards / "tree",), "denoised", output=cards / "out", output_is_folder=True, existing="resume", recursive=True
    )
    journals = Journals(order, DENOISE, photos=1, unchanged=lambda _used: True)
    (outcome,) = process(jobs(order), order, restored, journals=journals)
    assert outcome.status == "done"
    assert seen == [[], []], "once for the output folder, once for the one in it, and never with a file under way"
    assert not left.exists()
