"""Which outputs belong to which photos where that shows only by and by: streams, watched folders, claims."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import imagecodecs
import pytest

from kbnet_cli.batch import STANDARD, Claims, Job, Order, jobs, pictures, watched
from kbnet_cli.errors import InputError, OutputError, UsageError, WeightsError
from tests.pictures import picture, write_picture

PNG = bytes(imagecodecs.png_encode(picture(8, 8)))
JPEG = bytes(imagecodecs.jpeg_encode(picture(8, 8)))
PPM = b"P6 1 1 255\n123"


def stream_order(output: Path | None, **rest: object) -> Order:
    return Order((STANDARD,), "denoised", output=output, output_is_folder=True, stream=True, **rest)  # type: ignore[arg-type]


def broken_off(error: Exception, *given: bytes) -> Iterator[bytes]:
    yield from given
    raise error


def test_pictures_of_a_stream_are_numbered_in_a_folder(tmp_path: Path) -> None:
    found = list(pictures(stream_order(tmp_path), [PNG, JPEG, PPM]))
    assert [job.target for job in found] == [
        tmp_path / name for name in ("stdin-0001.png", "stdin-0002.jpg", "stdin-0003.ppm")
    ]
    assert [(job.number, job.data) for job in found] == [(1, PNG), (2, JPEG), (3, PPM)]
    assert [job.name for job in found] == [f"picture {number} of standard input" for number in (1, 2, 3)]
    (named,) = pictures(stream_order(tmp_path, name="{stem}-{done}.{ext}", format="tif"), [PNG])
    assert named.target.name == "stdin-0001-denoised.tif"


def test_pictures_of_a_stream_go_to_standard_output_as_they_are(tmp_path: Path) -> None:
    assert list(pictures(stream_order(STANDARD), [PNG, PPM])) == [
        Job(STANDARD, STANDARD, natural=True, data=PNG, number=1),
        Job(STANDARD, STANDARD, natural=True, data=PPM, number=2),
    ]
    (job,) = pictures(stream_order(STANDARD, format="tif"), [PNG])
    assert not job.natural


def test_pictures_come_as_they_are_asked_for(tmp_path: Path) -> None:
    """A stream may last for days: nothing of it is read ahead here."""
    stream = broken_off(AssertionError("read ahead"), PNG)
    assert next(pictures(stream_order(tmp_path), stream)).number == 1


@pytest.mark.parametrize("given", [(), (PNG,), (PNG, JPEG)])
def test_a_stream_that_breaks_off_ends_in_a_job_that_says_so(given: tuple[bytes, ...], tmp_path: Path) -> None:
    number = len(given) + 1
    error = InputError(f"picture {number} breaks off", hint="again")
    for output in (tmp_path, STANDARD):
        *before, last = pictures(stream_order(output), broken_off(error, *given))
        assert [job.data for job in before] == list(given)
        assert (last.data, last.number) == (None, number)
        assert isinstance(last.error, InputError)
        assert (last.error.message, last.error.hint) == (f"picture {number} of standard input: breaks off", "again")


def test_an_error_that_is_no_picture_s_is_let_through(tmp_path: Path) -> None:
    for error in (WeightsError("gone"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            list(pictures(stream_order(tmp_path), broken_off(error, PNG)))


@pytest.mark.parametrize(("output", "said"), [(None, "needs an output"), (Path("all.png"), "expected a folder")])
def test_a_stream_needs_standard_output_or_a_folder(output: Path | None, said: str) -> None:
    order = replace(stream_order(output), output_is_folder=False)
    with pytest.raises(UsageError, match=said) as caught:
        pictures(order, broken_off(AssertionError("it was read")))
    assert "-o " in caught.value.hint


def watch_order(*folders: Path, output: Path, **rest: object) -> Order:
    return Order(folders, "denoised", output=output, output_is_folder=True, watch=True, existing="resume", **rest)  # type: ignore[arg-type]


def arrivals(order: Order, count: int) -> list[Job]:
    """Return the first photos that arrive."""
    found: list[Job] = []
    for job in watched(order, stop=lambda: False, tell=lambda _note: None):
        found.append(job)
        if len(found) == count:
            break
    return found


def test_photos_of_a_watched_folder_keep_their_places(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "in/deep/out"
    for name in (
        "b.png",
        "a.jpg",
        "notes.txt",
        ".hidden.png",
        "deep/c.png",
        "deep/out/old.png",
        ".git/d.png",
        "no/e.png",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(source / name, size=(8, 8))
    found = arrivals(watch_order(source, output=output, exclude=("no/",)), 3)
    assert {
        (job.source.relative_to(source).as_posix(), job.target.relative_to(output).as_posix()) for job in found
    } == {
        ("a.jpg", "a.jpg"),
        ("b.png", "b.png"),
        ("deep/c.png", "deep/c.png"),
    }
    assert watched(watch_order(source, output=output), stop=lambda: True, tell=print) is not None


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    one = watch_order(tmp_path / "a", output=tmp_path / "out")
    for order, said in (
        (replace(one, inputs=(tmp_path / "a", tmp_path / "b")), "one folder and an output folder"),
        (replace(one, list_file=STANDARD), "one folder and an output folder"),
        (replace(one, output=None), "one folder and an output folder"),
        (replace(one, output=tmp_path / "x.png", output_is_folder=False), "one folder and an output folder"),
        (replace(one, output=tmp_path / "b/../a"), "would be photos that arrive"),
        (replace(one, inputs=(tmp_path / "missing",)), "missing"),
    ):
        with pytest.raises(UsageError, match=said):
            watched(order, stop=lambda: True, tell=print)  # when it is called, not when the first photo is asked for


def job(source: str, target: str) -> Job:
    return Job(Path(source), Path(target), natural=False)


def test_an_output_that_is_planned_is_nobody_else_s() -> None:
    claims = Claims([job("a.png", "o/a.png"), job("b.png", "o/b.png")])
    assert not claims.claim(job("a.png", "o/a.png"))
    with pytest.raises(OutputError, match=r"a\.png: the output o/b\.png is that of b\.png too"):
        claims.claim(job("a.png", "o/b.png"))
    with pytest.raises(OutputError, match=r"the output b\.png is one of the inputs"):
        claims.claim(job("a.png", "b.png"))
    claims.release(job("b.png", "o/b.png"))
    with pytest.raises(OutputError):  # what was planned stays, also after a failure
        claims.claim(job("a.png", "o/b.png"))


def test_what_is_claimed_by_and_by_is_given_back_by_a_photo_that_failed() -> None:
    claims = Claims()
    assert not claims.claim(job("a.jpg", "o/a.jpg"))
    assert not claims.claim(job("a.jpg", "o/a.png"))
    with pytest.raises(OutputError):
        claims.claim(job("a.bmp", "o/a.png"))
    claims.release(job("a.jpg", "o/a.png"))
    assert not claims.claim(job("a.bmp", "o/a.png"))
    assert not claims.claim(job("b.bmp", "o/a.jpg"))


def test_a_photo_that_comes_again_is_known() -> None:
    claims = Claims()
    assert [claims.claim(job("a.png", "o/a.png")) for _ in range(3)] == [False, True, True]
    assert not claims.claim(job("-", "-"))
    assert not claims.claim(job("-", "-"))


def test_two_ways_to_one_file_are_one_output(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "o")
    claims = Claims()
    claims.claim(job("a.png", str(tmp_path / "o/x.png")))
    with pytest.raises(OutputError, match=r"is that of a\.png too"):
        claims.claim(job("b.png", str(tmp_path / "link/x.png")))
    with pytest.raises(UsageError, match="would both become"):
        Claims([job("a.png", str(tmp_path / "o/x.png")), job("b.png", str(tmp_path / "link/x.png"))])


def test_an_output_that_several_names_would_have_is_planned_apart_or_refused(tmp_path: Path) -> None:
    order = Order(
        (tmp_path / "a.cr3", tmp_path / "a.jpg"), "denoised", output=tmp_path / "o", output_is_folder=True, format="jpg"
    )
    assert [job.target.name for job in jobs(order)] == ["a.cr3.jpg", "a.jpg"]
