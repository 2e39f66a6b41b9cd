"""Which file becomes which, whole or not at all, one bad photo apart from the others."""

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kbnet_cli import batch, naming
from kbnet_cli.batch import STANDARD, Job, Order, Restored, jobs, preview, process
from kbnet_cli.errors import InputError, KBNetError, OutputError, UsageError
from kbnet_cli.formats import codec
from kbnet_cli.photo import Photo
from tests.pictures import write_picture


def order(*inputs: Path | str, output: str | Path | None = None, **rest: object) -> Order:
    return Order(
        inputs=tuple(map(Path, inputs)),
        done="denoised",
        output=None if output is None else Path(output),
        output_is_folder=isinstance(output, str) and output.endswith("/"),
        **rest,  # type: ignore[arg-type]
    )


def names(found: list[Job], root: Path) -> list[tuple[str, str]]:
    return [(str(job.source.relative_to(root)), str(job.target.relative_to(root))) for job in found]


def test_without_an_output_it_lies_beside_the_input(tmp_path: Path) -> None:
    found = jobs(order(tmp_path / "a.JPG", tmp_path / "b.tar.png"))
    assert names(found, tmp_path) == [("a.JPG", "a_denoised.JPG"), ("b.tar.png", "b.tar_denoised.png")]
    found = jobs(order(tmp_path / "a.jpg", format="tif"))
    assert names(found, tmp_path) == [("a.jpg", "a_denoised.tif")]


def test_an_output_may_be_a_file_or_a_folder(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    assert names(jobs(order(photo, output=tmp_path / "b.png")), tmp_path) == [("a.jpg", "b.png")]
    assert names(jobs(order(photo, output=f"{tmp_path}/new/")), tmp_path) == [("a.jpg", "new/a.jpg")]
    (tmp_path / "there").mkdir()
    assert names(jobs(order(photo, output=tmp_path / "there")), tmp_path) == [("a.jpg", "there/a.jpg")]
    with pytest.raises(UsageError, match="expected a folder"):
        jobs(order(photo, tmp_path / "c.jpg", output=tmp_path / "b.png"))
    with pytest.raises(UsageError, match="cannot write a file with that ending"):
        jobs(order(photo, output=tmp_path / "b.xyz"))
    with pytest.raises(UsageError, match="cannot write a file with that ending"):
        jobs(order(photo, output=tmp_path / "b.heic"))


def test_a_folder_keeps_its_structure_and_leaves_out_what_is_no_picture(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("a10.png", "a2.png", "deep/er/b.jpg", ".hidden.png", "notes.txt", "wrong.jpg", "clean/old.png"):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    write_picture(source / "unnamed")
    found = jobs(order(source, output=f"{source}/clean/", recursive=True))
    assert names(found, source) == [
        ("a2.png", "clean/a2.png"),
        ("a10.png", "clean/a10.png"),
        ("unnamed", "clean/unnamed.png"),
        ("wrong.jpg", "clean/wrong.jpg"),
        ("deep/er/b.jpg", "clean/deep/er/b.jpg"),
    ]
    with pytest.raises(UsageError, match="is a folder") as caught:
        jobs(order(source, output=f"{tmp_path}/out/"))
    assert "-r" in caught.value.hint
    with pytest.raises(UsageError, match="needs an output folder"):
        jobs(order(source, recursive=True))


def test_raw_and_jpeg_of_one_name_stay_apart(tmp_path: Path) -> None:
    found = jobs(order(tmp_path / "a.cr3", tmp_path / "a.jpg", output=f"{tmp_path}/out/", format="jpg"))
    assert names(found, tmp_path) == [("a.cr3", "out/a.cr3.jpg"), ("a.jpg", "out/a.jpg")]


def test_two_inputs_of_one_output_and_an_output_that_is_an_input_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UsageError, match="would both become"):
        jobs(order(tmp_path / "x/a.png", tmp_path / "y/a.png", output=f"{tmp_path}/out/"))
    for existing in ("error", "overwrite"):
        with pytest.raises(UsageError, match="one of the inputs"):
            jobs(order(tmp_path / "x/a.png", output=f"{tmp_path}/x/", existing=existing))
    (tmp_path / "link.png").symlink_to(tmp_path / "x/a.png")
    (tmp_path / "x/a.png").touch()
    with pytest.raises(UsageError, match="one of the inputs"):
        jobs(order(tmp_path / "x/a.png", output=tmp_path / "link.png", existing="overwrite"))


@pytest.mark.parametrize(
    ("template", "beside", "inside"),
    [
        ("{stem}_{done}.{ext}", "a_denoised.JPG", "a_denoised.JPG"),
        ("clean-{stem}.{ext}", "clean-a.JPG", "clean-a.JPG"),
        ("{stem} ({done}) {{x}}.{ext}", "a (denoised) {x}.JPG", "a (denoised) {x}.JPG"),
        ("{stem}.v2.{ext}", "a.v2.JPG", "a.v2.JPG"),
        ("{done}.{stem}{stem}.{ext}", "denoised.aa.JPG", "denoised.aa.JPG"),
        (None, "a_denoised.JPG", "a.JPG"),
    ],
)
def test_a_template_names_outputs_beside_inputs_and_in_folders(
    template: str | None, beside: str, inside: str, tmp_path: Path
) -> None:
    photo = tmp_path / "sub/a.JPG"
    assert names(jobs(order(photo, name=template)), tmp_path) == [("sub/a.JPG", f"sub/{beside}")]
    assert names(jobs(order(photo, name=template, output=f"{tmp_path}/o/")), tmp_path) == [("sub/a.JPG", f"o/{inside}")]
    (converted,) = jobs(order(photo, name=template, format="tif"))
    assert converted.target.name == beside.replace(".JPG", ".tif")
    (given,) = jobs(order(photo, name=template, output=tmp_path / "b.png"))
    assert given.target.name == "b.png", "a file that -o names keeps that name"


def test_a_template_goes_on_in_the_folders_of_a_folder(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "a.png").rename(tmp_path / "in/deep/a.png")
    found = jobs(order(tmp_path / "in", name="{stem}-{done}.{ext}", output=f"{tmp_path}/out/", recursive=True))
    assert names(found, tmp_path) == [("in/deep/a.png", "out/deep/a-denoised.png")]


def test_names_of_a_template_that_collide_are_refused_or_kept_apart_as_always(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of the inputs"):
        jobs(order(tmp_path / "a.png", name="{stem}.{ext}"))
    with pytest.raises(UsageError, match="one of the inputs"):
        jobs(order(tmp_path / "a.png", tmp_path / "a-1.png", name="{stem}-1.{ext}"))
    with pytest.raises(UsageError, match="would both become"):
        jobs(order(tmp_path / "x/a.png", tmp_path / "y/a.png", name="{stem}-1.{ext}", output=f"{tmp_path}/o/"))
    both = order(tmp_path / "a.cr3", tmp_path / "a.jpg", name="{stem}-1.{ext}", output=f"{tmp_path}/o/", format="jpg")
    assert names(jobs(both), tmp_path) == [("a.cr3", "o/a.cr3-1.jpg"), ("a.jpg", "o/a-1.jpg")]


def test_a_dot_in_a_template_is_no_extension(tmp_path: Path) -> None:
    write_picture(tmp_path / "unnamed")
    write_picture(tmp_path / "b.jpg")
    outcomes = run(order(tmp_path / "unnamed", tmp_path / "b.jpg", name="{stem}.v2.{ext}"))
    assert [outcome.job.target.name for outcome in outcomes] == ["unnamed.v2.png", "b.v2.png"]


def test_a_name_that_is_too_long_is_one_clear_error(tmp_path: Path) -> None:
    longest = "ä" * 120 + "a"  # 241 bytes
    (job,) = jobs(order(tmp_path / f"{longest}.png"))
    assert len(job.target.name.encode()) == 254
    for template, photo in ((None, f"{longest}abc.png"), ("{stem}{stem}.{ext}", f"{longest}.png")):
        with pytest.raises(UsageError, match="more than 255 bytes") as caught:
            jobs(order(tmp_path / photo, name=template))
        assert "--name" in caught.value.hint


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "has no {stem}"),
        ("{done}.{ext}", "has no {stem}"),
        ("{{stem}}.{ext}", "has no {stem}"),
        ("{stem}", "does not end in .{ext}"),
        ("{stem}.jpg", "does not end in .{ext}"),
        ("{stem}.{{ext}}", "does not end in .{ext}"),
        ("{ext}{stem}.{ext}", "has it twice"),
        ("{stem}{date}.{ext}", "has {date}"),
        ("{stem}{}.{ext}", "has {}"),
        ("{stem}{0}.{ext}", "has {0}"),
        ("{stem!r}.{ext}", "has {stem!r}"),
        ("{stem:>9}.{ext}", "has {stem:>9}"),
        ("{stem.__class__}.{ext}", "has {stem.__class__}"),
        ("{stem[0]}.{ext}", "has {stem[0]}"),
        ("{stem.{ext}", "{stem.{ext}"),
        ("stem}.{ext}", "stem}.{ext}"),
        ("out/{stem}.{ext}", "path separator"),
        ("..\\{stem}.{ext}", "path separator"),
        ("{stem}\0.{ext}", "control character"),
        ("{stem}\n.{ext}", "control character"),
    ],
)
def test_a_template_that_would_not_name_files_is_refused(template: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        naming.check(template)
    assert said in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


@given(st.text(st.sampled_from("{}stemdonext_.:![]0aä \\/"), max_size=30), st.text(min_size=1, max_size=20))
def test_a_template_that_is_let_through_names_a_file(template: str, stem: str) -> None:
    try:
        naming.check(f"{template}.{{ext}}")
    except UsageError:
        return
    found = naming.name(f"{template}.{{ext}}", stem=stem.replace("/", "-"), done="denoised", extension=".png")
    assert found.endswith(".png")
    assert stem.replace("/", "-") in found
    assert "/" not in found


def test_an_input_is_not_overwritten_by_an_output_whose_extension_was_left_open(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg")  # holds a PNG
    write_picture(tmp_path / "a_denoised.png")
    before = (tmp_path / "a_denoised.png").read_bytes()
    outcomes = run(order(tmp_path / "a.jpg", tmp_path / "a_denoised.png", existing="overwrite"))
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert outcomes[0].error is not None
    assert "a_denoised.png is one of the inputs" in outcomes[0].error.message
    assert (tmp_path / "a_denoised.png").read_bytes() == before


@pytest.fixture
def one_name(tmp_path: Path) -> tuple[Path, Path]:
    """Two PNGs whose names say otherwise: both would become a.png, which is known only once they are read."""
    both = tmp_path / "a.jpg", tmp_path / "a.bmp"
    for path in both:
        write_picture(path)
    return both


@pytest.mark.parametrize("existing", ["error", "skip", "overwrite"])
def test_an_output_is_not_taken_for_that_of_another_photo(
    existing: str, one_name: tuple[Path, Path], tmp_path: Path
) -> None:
    wanted = order(*one_name, output=f"{tmp_path}/o/", existing=existing)
    inspected = list(preview(jobs(wanted), wanted))
    assert not (tmp_path / "o").exists()
    for outcomes in (inspected, run(wanted)):
        assert [outcome.status for outcome in outcomes] == ["done", "failed"]
        assert outcomes[1].error is not None
        assert outcomes[1].error.message == f"{one_name[1]}: the output {tmp_path}/o/a.png is that of {one_name[0]} too"


def test_a_photo_is_not_passed_over_for_the_output_of_another(one_name: tuple[Path, Path], tmp_path: Path) -> None:
    wanted = order(*one_name, output=f"{tmp_path}/o/", existing="skip")
    for first in ("done", "skipped"):
        assert [outcome.status for outcome in run(wanted)] == [first, "failed"]


def test_a_photo_that_fails_takes_no_output(one_name: tuple[Path, Path], tmp_path: Path) -> None:
    wanted = order(*one_name, output=f"{tmp_path}/o/")

    def first_fails(job: Job, photo: Photo) -> Restored:
        if job.source == one_name[0]:
            raise OutputError("no room")
        return Restored(photo)

    outcomes = list(batch.process(jobs(wanted), wanted, first_fails))
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert (tmp_path / "o/a.png").is_file()


def test_standard_streams(tmp_path: Path) -> None:
    assert jobs(order("-", output="-")) == [Job(STANDARD, STANDARD, natural=True)]
    with pytest.raises(UsageError, match="needs an output"):
        jobs(order("-"))
    assert jobs(order("-", output=tmp_path / "a.png")) == [Job(STANDARD, tmp_path / "a.png", natural=False)]


def test_natural_order() -> None:
    shuffled = ["IMG_10.jpg", "img_9.jpg", "IMG_2b.jpg", "IMG_2.jpg", "2.jpg", "Ä.jpg", "a.jpg"]
    assert sorted(shuffled, key=naming.natural_key)[:4] == ["2.jpg", "a.jpg", "Ä.jpg", "IMG_2.jpg"]


def run(wanted: Order) -> list[batch.Outcome]:
    return list(batch.process(jobs(wanted), wanted, lambda _job, photo: Restored(photo)))


def test_outputs_appear_whole_with_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (outcome,) = run(order(tmp_path / "a.png", output=tmp_path / "new" / "b.png"))
    assert outcome.status == "done"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["b.png"]
    (tmp_path / "fresh").touch()
    assert stat.S_IMODE((tmp_path / "new/b.png").stat().st_mode) == stat.S_IMODE((tmp_path / "fresh").stat().st_mode)


def test_existing_outputs_are_errors_skipped_or_replaced_as_told(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    target = tmp_path / "a_denoised.png"
    target.write_text("mine")
    (outcome,) = run(order(tmp_path / "a.png"))
    assert isinstance(outcome.error, OutputError)
    assert "--overwrite" in outcome.error.hint
    (outcome,) = run(order(tmp_path / "a.png", existing="skip"))
    assert outcome.status == "skipped"
    assert target.read_text() == "mine"
    (outcome,) = run(order(tmp_path / "a.png", existing="overwrite"))
    assert outcome.status == "done"
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    wanted = order(tmp_path / "a.png")

    def slow(job: Job, photo: Photo) -> Restored:
        job.target.write_text("someone else's")
        return Restored(photo)

    (outcome,) = batch.process(jobs(wanted), wanted, slow)
    assert isinstance(outcome.error, OutputError)
    assert (tmp_path / "a_denoised.png").read_text() == "someone else's"
    assert len(list(tmp_path.iterdir())) == 2


def test_one_bad_photo_changes_nothing_for_the_others(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").write_text("some text")
    write_picture(tmp_path / "6.png")
    wanted = order(*(tmp_path / f"{n}.png" for n in range(1, 7)), output=f"{tmp_path}/out/")
    outcomes = run(wanted)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "failed", "failed", "failed", "done"]
    for number, outcome in enumerate(outcomes, start=1):
        if outcome.error is not None:
            assert isinstance(outcome.error, InputError)
            assert outcome.error.message.startswith(f"{tmp_path / f'{number}.png'}: ")
            assert outcome.error.hint
            assert "\n" not in outcome.error.message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.png", "6.png"]


def test_what_nobody_foresaw_fails_one_photo_and_keeps_its_traceback(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    wanted = order(tmp_path / "a.png")

    def explode(job: Job, photo: Photo) -> Restored:
        raise ZeroDivisionError("surprise")

    (outcome,) = batch.process(jobs(wanted), wanted, explode)
    assert outcome.error is not None
    assert "ZeroDivisionError: surprise" in outcome.error.message
    assert isinstance(outcome.unexpected, ZeroDivisionError)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_error_of_the_weights_ends_the_batch(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    wanted = order(tmp_path / "a.png")

    def refuse(job: Job, photo: Photo) -> Restored:
        raise UsageError("nothing fits")

    with pytest.raises(KBNetError, match="nothing fits"):
        list(batch.process(jobs(wanted), wanted, refuse))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (tmp_path / "locked").mkdir(mode=0o500)
    (outcome,) = run(order(tmp_path / "a.png", output=f"{tmp_path}/locked/"))
    assert isinstance(outcome.error, OutputError)


def test_an_output_below_a_file_is_an_error(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (outcome,) = run(order(tmp_path / "a.png", output=f"{tmp_path}/a.png/out/"))
    assert isinstance(outcome.error, OutputError)
    assert "cannot be written" in outcome.error.message


def test_the_output_takes_the_extension_of_what_it_holds(tmp_path: Path) -> None:
    write_picture(tmp_path / "really-a-png.jpg")
    write_picture(tmp_path / "photo.PNG")
    outcomes = run(order(tmp_path / "really-a-png.jpg", tmp_path / "photo.PNG"))
    assert [outcome.job.target.name for outcome in outcomes] == ["really-a-png_denoised.png", "photo_denoised.PNG"]
    for outcome in outcomes:
        assert codec.kind_of(outcome.job.target.read_bytes()) == "png"


def test_inspecting_writes_nothing(tmp_path: Path) -> None:
    pixels = write_picture(tmp_path / "a.png")
    wanted = order(tmp_path / "a.png")
    (outcome,) = preview(jobs(wanted), wanted)
    assert outcome.extent is not None
    assert (outcome.extent.height, outcome.extent.width) == pixels.shape[:2]
    assert outcome.job.target.name == "a_denoised.png"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_written_is_refused_before_it_is_restored(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    for wish in ({"format": "dng"}, {"depth": 10}):
        wanted = order(tmp_path / "a.png", output=f"{tmp_path}/out/", **wish)
        outcome = next(process(jobs(wanted), wanted, lambda _job, _photo: pytest.fail("it was restored")))
        assert outcome.status == "failed"
        assert outcome.error is not None
        assert outcome.error.code == "unsupported"
        assert next(preview(jobs(wanted), wanted)).status == "failed", "--dry-run says so too"
