"""Files beside photos go along: under which name, in place of what, and never half."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kbnet_cli.batch import Claims, Existing, Job, Journals, Order, Outcome, Restored, jobs, preview, process, writing
from kbnet_cli.batch.sidecars import sidecars
from kbnet_cli.errors import InputError, OutputError
from kbnet_cli.photo import Photo
from tests.pictures import write_picture
from tests.watchdog import SECONDS, within

Files = dict[str, str]


def lay(folder: Path, files: Files) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def along(folder: Path, source: str, target: str, existing: Existing = "error", *, replaces: bool = False) -> Files:
    """Return what would be written beside an output."""
    found = sidecars(Job(folder / source, folder / target, natural=False), existing, Claims(), replaces=replaces)
    return {each.target.relative_to(folder).as_posix(): each.data.decode() for each in found}


def all_of(
    order: Order, restore: Callable[[Job, Photo], Restored] = lambda _job, photo: Restored(photo)
) -> list[Outcome]:
    return within(lambda: list(process(jobs(order), order, restore)))


def order_of(folder: Path, *names: str, existing: Existing = "error") -> Order:
    inputs = tuple(folder / name for name in names)
    return Order(inputs, "denoised", output=folder / "out", output_is_folder=True, existing=existing, sidecars=True)


@pytest.mark.parametrize(
    ("source", "there", "target", "becomes"),
    [
        ("a.cr2", "a.cr2.xmp", "o/a.dng", "o/a.dng.xmp"),
        ("a.cr2", "a.xmp", "o/a.dng", "o/a.xmp"),
        ("a.CR2", "a.CR2.XMP", "o/a.dng", "o/a.dng.XMP"),
        ("a.CR2", "a.XMP", "o/a.dng", "o/a.XMP"),
        ("photo.cr2", "photo.cr2.xmp", "photo_denoised.dng", "photo_denoised.dng.xmp"),
        ("photo.cr2", "photo.xmp", "photo_denoised.dng", "photo_denoised.xmp"),
        ("a.b.jpg", "a.b.xmp", "out/a.b.jpg", "out/a.b.xmp"),
        ("a.jpg", "a.jpg.xmp", "out/a.cr3.jpg", "out/a.cr3.jpg.xmp"),
        ("ä ö.jpg", "ä ö.xmp", "out/ä ö-v2.png", "out/ä ö-v2.xmp"),
    ],
)
def test_a_sidecar_is_named_after_the_output_as_it_was_after_the_input(
    source: str, there: str, target: str, becomes: str, tmp_path: Path
) -> None:
    lay(tmp_path, {there: "said", "other.xmp": "of another", "a.cr2x.xmp": "of another"})
    assert along(tmp_path, source, target) == {becomes: "said"}


def test_one_that_is_named_after_the_output_already_stays(tmp_path: Path) -> None:
    lay(tmp_path, {"a.xmp": "said", "a.cr2.xmp": "more"})
    assert along(tmp_path, "a.cr2", "a.dng", "overwrite") == {"a.dng.xmp": "more"}


def test_those_of_darktable_and_lightroom_both_go(tmp_path: Path) -> None:
    lay(tmp_path, {"a.cr2.xmp": "darktable's", "a.xmp": "Lightroom's"})
    assert along(tmp_path, "a.cr2", "o/a.dng") == {"o/a.dng.xmp": "darktable's", "o/a.xmp": "Lightroom's"}
    assert along(tmp_path, "-", "o/a.dng") == along(tmp_path, "b.cr2", "o/b.dng") == {}


def test_a_template_names_sidecars_too(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", size=(8, 8))
    lay(tmp_path, {"a.xmp": "said", "a.png.xmp": "more"})
    order = Order((tmp_path / "a.png",), "denoised", name="{stem} ({done}).{ext}", format="tif", sidecars=True)
    assert [outcome.status for outcome in all_of(order)] == ["done"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.png", "a.xmp", "a.png.xmp", "a (denoised).tif", "a (denoised).xmp", "a (denoised).tif.xmp"
    }  # fmt: skip
    assert (tmp_path / "a (denoised).tif.xmp").read_text() == "more"


@pytest.mark.parametrize("existing", ["error", "overwrite", "skip", "resume"])
def test_what_stands_there_already_stays_where_it_is_the_same(existing: Existing, tmp_path: Path) -> None:
    lay(tmp_path, {"a.xmp": "said", "o/a.xmp": "said"})
    assert along(tmp_path, "a.cr2", "o/a.dng", existing) == {}


def test_another_file_in_its_place_is_replaced_left_or_an_error_as_told(tmp_path: Path) -> None:
    lay(tmp_path, {"a.xmp": "said", "o/a.xmp": "edited since"})
    assert along(tmp_path, "a.cr2", "o/a.dng", "overwrite", replaces=True) == {"o/a.xmp": "said"}
    assert along(tmp_path, "a.cr2", "o/a.dng", "skip") == along(tmp_path, "a.cr2", "o/a.dng", "resume") == {}
    for existing in ("error", "overwrite"):  # where no output is replaced, it is not that output's
        with pytest.raises(OutputError, match=r"o/a\.xmp: exists already and is another file"):
            along(tmp_path, "a.cr2", "o/a.dng", existing)


def test_two_files_that_would_go_along_under_one_name_are_an_error_of_the_second(tmp_path: Path) -> None:
    for name in ("x/p.png", "y/p.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    lay(tmp_path, {"x/p.xmp": "of x", "y/p.xmp": "of y"})
    order = order_of(tmp_path, "x/p.png", "y/p.jpg", existing="overwrite")
    first, second = all_of(replace(order, format="auto"))
    assert (first.status, second.status) == ("done", "failed")
    assert second.error is not None
    assert "would both go along as" in second.error.message
    assert (tmp_path / "out/p.xmp").read_text() == "of x"


def test_a_sidecar_that_is_missing_beside_a_kept_photo_is_brought(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", size=(8, 8))
    order = order_of(tmp_path, "a.png", existing="resume")
    for sidecar, status in ((None, "done"), ("said", "kept"), ("edited", "kept")):
        if sidecar:
            lay(tmp_path, {"a.xmp": sidecar})
        journals = Journals(order, {}, photos=1, unchanged=lambda _used: True)
        (outcome,) = process(jobs(order), order, lambda _job, photo: Restored(photo), journals=journals)
        assert outcome.status == status
    assert (tmp_path / "out/a.xmp").read_text() == "said", "what is there already may have been edited"


def test_a_photo_whose_sidecar_cannot_be_written_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_picture(tmp_path / name, size=(8, 8))
    lay(tmp_path, {"a.xmp": "said", "b.xmp": "said", "c.xmp": "said", "out/b.xmp": "another"})
    (tmp_path / "c.png.xmp").mkdir()
    original = writing.write

    def write(target: Path, data: bytes, **how: bool) -> None:
        if target.name == "a.xmp":
            raise OutputError(f"{target}: cannot be written: no space left")
        original(target, data, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "write", write)
    restored: list[str] = []

    def restore(job: Job, photo: Photo) -> Restored:
        restored.append(job.source.name)
        return Restored(photo)

    outcomes = all_of(order_of(tmp_path, "a.png", "b.png", "c.png"), restore)
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3
    assert [type(outcome.error) for outcome in outcomes] == [OutputError, OutputError, InputError]
    assert restored == ["a.png"], "what can be seen before is an error before anything takes minutes"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b.xmp"}


def test_a_sidecar_that_cannot_be_read_is_an_error_of_its_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, {"a.xmp": "said"})

    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"a\.cr2\.xmp: cannot be read: Permission denied"):
        along(tmp_path, "a.cr2", "o/a.dng")


@pytest.mark.parametrize("existing", ["error", "overwrite"])
def test_raw_and_jpeg_of_one_name_share_a_sidecar_also_at_the_same_time(existing: Existing, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", size=(8, 8))
    write_picture(tmp_path / "a.tif", size=(8, 8))
    lay(tmp_path, {"a.xmp": "said"})
    order = order_of(tmp_path, "a.png", "a.tif", existing=existing)
    both = threading.Barrier(2)

    def together(_job: Job, photo: Photo) -> Restored:
        both.wait(SECONDS)  # both have seen that it is not there yet
        return Restored(photo)

    planned = [Job(tmp_path / name, tmp_path / "out" / name, natural=False) for name in ("a.png", "a.tif")]
    outcomes = within(lambda: list(process(planned, order, together)))
    assert [outcome.status for outcome in outcomes] == ["done", "done"], outcomes
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a.tif", "a.xmp"}
    assert (tmp_path / "out/a.xmp").read_text() == "said"


def test_a_preview_tells_of_one_that_stands_in_the_way(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, size=(8, 8))
    lay(tmp_path, {"a.xmp": "said", "b.xmp": "said", "out/b.xmp": "another"})
    order = order_of(tmp_path, "a.png", "b.png")
    assert [outcome.status for outcome in preview(jobs(order), order)] == ["done", "failed"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"b.xmp"}
