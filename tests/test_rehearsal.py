"""What --dry-run tells before anything is done: the same as the run will tell, and nothing is written."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from kbnet_cli.batch import CodecTimes, Job, Order, Outcome, Restored, jobs, preview, process
from kbnet_cli.engine import Engine
from kbnet_cli.forecast import ROUNDS, probe
from kbnet_cli.formats import codec
from kbnet_cli.formats.extent import Extent
from kbnet_cli.journal import NAME
from kbnet_cli.lanes import lanes
from kbnet_cli.replaying import RECURS
from kbnet_cli.restore import Restoration
from tests import test_cli
from tests.pictures import picture, write_picture
from tests.test_cli import Call
from tests.watchdog import within

kbnet = test_cli.kbnet


def order_of(folder: Path, *names: str, **rest: Any) -> Order:
    inputs = tuple(folder / name for name in names)
    return Order(inputs, "denoised", output=folder / "out", output_is_folder=True, **rest)


def previewed(order: Order) -> list[Outcome]:
    return list(preview(jobs(order), order))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return everything below a folder, with times."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes())
        for path in folder.rglob("*")
    }


def plan_of(kbnet: Call, *words: str | Path) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    done = kbnet(*words, "--dry-run", "--json")
    *plan, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert summary["event"] == "summary", done.stderr
    return done.code, plan, summary


def test_of_usual_files_only_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(300, 400)
    for name in ("a.png", "a.jpg", "a.tif", "a.webp"):
        Image.fromarray(pixels).save(tmp_path / name)
    count = {"bytes": 0}

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            found = super().read(-1 if size is None else size)
            count["bytes"] += len(found)
            return found

    order = order_of(tmp_path, "a.png", "a.jpg", "a.tif", "a.webp", name="{stem}-{done}.{ext}")
    planned = [Job(path, tmp_path / f"out/{path.name}", natural=True, extension=path.suffix) for path in order.inputs]
    monkeypatch.setattr(Path, "open", lambda path, _mode: Counted(path))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    for job in planned:
        count["bytes"] = 0
        (outcome,) = preview([job], order)
        assert (outcome.status, outcome.extent and (outcome.extent.height, outcome.extent.width)) == (
            "done",
            (300, 400),
        )
        assert 0 < count["bytes"] <= 5 * 4096 < job.source.stat().st_size * 2


@pytest.mark.parametrize(
    ("name", "wish", "status"),
    [
        ("rgb.png", {}, "done"),
        ("cmyk.jpg", {}, "done"),
        ("cmyk.jpg", {"format": "png"}, "failed"),
        ("rgb.png", {"depth": 10}, "failed"),
        ("rgb.png", {"depth": 16}, "done"),
        ("rgb.png", {"format": "dng"}, "failed"),
        ("rgb.png", {"max_megapixels": 0.001}, "failed"),
        ("rgb.png", {"max_megapixels": 1.0}, "done"),
        ("cut.png", {"max_megapixels": 1.0}, "failed"),
        ("text.png", {}, "failed"),
        ("missing.png", {}, "failed"),
    ],
)
def test_what_a_header_does_not_settle_is_decoded_and_told_as_the_run_will(
    name: str, wish: dict[str, Any], status: str, tmp_path: Path
) -> None:
    Image.fromarray(picture(60, 80)).save(tmp_path / "rgb.png")
    Image.fromarray(np.full((60, 80, 4), 90, np.uint8), mode="CMYK").save(tmp_path / "cmyk.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "rgb.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("no picture")
    order = order_of(tmp_path, name, **wish)
    (seen,) = previewed(order)
    assert not (tmp_path / "out").exists()
    (done,) = within(lambda: list(process(jobs(order), order, lambda _job, photo: Restored(photo))))
    assert (seen.status, done.status) == (status, status)
    assert (seen.error and seen.error.message) == (done.error and done.error.message)
    assert seen.extent == done.extent
    assert seen.job == done.job


def test_who_gets_an_output_is_told_as_the_run_will(tmp_path: Path) -> None:
    """Mislabelled files: whose output it is shows only once they are read, but what names promise counts first."""
    for name in ("a.jpg", "a.png", "b.bmp", "b.jpg"):  # all hold a PNG
        write_picture(tmp_path / name, size=(8, 8))
    order = order_of(tmp_path, "a.jpg", "a.png", "b.bmp", "b.jpg")
    seen = previewed(order)
    done = within(lambda: list(process(jobs(order), order, lambda _job, photo: Restored(photo))))
    assert [outcome.status for outcome in done] == ["failed", "done", "done", "failed"]
    assert [outcome.status for outcome in seen] == [outcome.status for outcome in done]
    assert [str(outcome.error) for outcome in seen] == [str(outcome.error) for outcome in done]


def test_an_input_is_no_output_in_a_plan_either(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", size=(8, 8))  # holds a PNG
    write_picture(tmp_path / "a_denoised.png", size=(8, 8))
    order = Order((tmp_path / "a.jpg", tmp_path / "a_denoised.png"), "denoised", existing="overwrite")
    outcomes = previewed(order)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "is one of the inputs" in str(outcomes[0].error)


def test_what_is_skipped_is_told_as_skipped(kbnet: Call, tmp_path: Path, random_weights: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name)
    (tmp_path / "a_denoised.png").write_text("mine")
    words = ("denoise", tmp_path / "a.png", tmp_path / "b.png", "-w", random_weights, "--skip-existing")
    done = kbnet(*words, "--dry-run")
    assert f"{tmp_path}/a.png: skipped, {tmp_path}/a_denoised.png exists\n" in done.stderr
    assert "1 to do, 1 skipped:" in done.stderr
    code, plan, summary = plan_of(kbnet, *words)
    assert [each.get("status") for each in plan] == ["skipped", None]
    assert (code, summary["done"], summary["skipped"]) == (0, 1, 1)


@pytest.mark.parametrize("beside", [False, True], ids=["folder", "beside"])
def test_what_resuming_would_keep_and_do_is_told_and_nothing_is_written(
    beside: bool, kbnet: Call, tmp_path: Path, random_weights: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    names = ["kept.png", "input.png", "lost.png", "edited.png"]
    for name in names:
        write_picture(source / name)
    into = ("-w", random_weights) if beside else ("-w", random_weights, "-o", f"{tmp_path}/out/")
    folder, ending = (source, "_denoised.png") if beside else (tmp_path / "out", ".png")
    first = kbnet("denoise", *(source / name for name in names), *into, "--resume")
    assert first.code == 0, first.stderr

    write_picture(source / "input.png", size=(30, 30))
    (folder / f"lost{ending}").unlink()
    (folder / f"edited{ending}").write_text("by hand")
    write_picture(source / "new.png")
    (folder / ".kbnet-0123456789abcdef.partial").write_text("of a killed run")
    words = ("denoise", *(source / name for name in (*names, "new.png")), *into, "--resume")
    before = tree(tmp_path)
    code, plan, summary = plan_of(kbnet, *words)
    assert tree(tmp_path) == before
    told = {Path(each["input"]).stem: each.get("status", "to do") for each in plan}
    assert told == {"kept": "kept", "input": "to do", "lost": "to do", "edited": "failed", "new": "to do"}
    assert (code, summary["done"], summary["kept"], summary["failed"]) == (1, 3, 1, 1)
    assert "was changed since kbnet wrote it" in next(each for each in plan if each.get("error"))["error"]["message"]

    _, plan, summary = plan_of(kbnet, *words, "--strength", "0.5")
    assert summary["kept"] == 0, "other settings: all is done again"
    assert tree(tmp_path) == before

    run = kbnet(*words, "--json")
    became = {Path(each["input"]).stem: each["status"] for each in map(json.loads, run.stdout.splitlines()[:-1])}
    assert became == {name: "done" if said == "to do" else said for name, said in told.items()}


def test_a_plan_to_resume_what_never_began_makes_no_folder(kbnet: Call, tmp_path: Path, random_weights: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name)
    before = tree(tmp_path)
    words = ("denoise", tmp_path / "a.png", tmp_path / "b.png", "-o", f"{tmp_path}/out/", "-w", random_weights)
    code, _, summary = plan_of(kbnet, *words, "--resume")
    assert (code, summary["done"], summary["kept"]) == (0, 2, 0)
    assert tree(tmp_path) == before
    (tmp_path / "out").mkdir()
    write_picture(tmp_path / "out/a.png")
    code, plan, _ = plan_of(kbnet, *words, "--resume")
    assert (code, plan[0]["status"]) == (1, "failed")
    assert "is not in the journal" in plan[0]["error"]["message"]
    assert not (tmp_path / "out" / NAME).exists()


@pytest.mark.parametrize("words", [("-", "--stream", "-o", "-"), ("--watch", "in", "-o", "out/")])
def test_what_is_not_known_ahead_has_no_plan(
    words: tuple[str, ...], kbnet: Call, tmp_path: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    done = kbnet("denoise", *words, "-w", random_weights, "--dry-run")
    assert done.code == 2
    assert "--dry-run has to know the photos" in done.stderr
    assert list(tree(tmp_path)) == ["in"]


def test_tiles_are_counted_as_the_network_will_answer_them(
    kbnet: Call, tmp_path: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, size in enumerate(((100, 150), (64, 64), (65, 30), (1, 1), (30, 400))):
        write_picture(tmp_path / f"{number}.png", size=size)
    (tmp_path / "grey.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(picture(90, 90)[:, :, 0])))
    Image.fromarray(np.full((90, 90, 4), 90, np.uint8), mode="CMYK").save(tmp_path / "cmyk.jpg")
    names = [path for path in sorted(tmp_path.iterdir()) if path.suffix in (".png", ".jpg")]
    words: tuple[str | Path, ...] = ("denoise", *names, "-o", f"{tmp_path}/out/", "-w", random_weights)
    _, plan, summary = plan_of(kbnet, *words)
    answered: list[int] = []
    original = Engine.residual

    def counted(self: Engine, tiles: np.ndarray, redone: Callable[[int], None]) -> np.ndarray:
        answered.append(len(tiles))
        return original(self, tiles, redone)

    monkeypatch.setattr(Engine, "residual", counted)
    assert kbnet(*words).code == 0
    assert sum(answered) == summary["tiles"] == sum(each["tiles"] for each in plan)
    assert len(plan) == 7


@pytest.mark.parametrize(("gpu", "before"), [(False, 1), (True, RECURS + 1)])
def test_what_sets_a_network_up_is_not_timed(gpu: bool, before: int) -> None:
    asked: list[tuple[int, ...]] = []

    class Told:
        image_channels, size_multiple = 1, 8

        def residual(self, tiles: np.ndarray) -> np.ndarray:
            asked.append(tiles.shape)
            return tiles

    with lanes(3, shared=False) as own:
        probe(Told(), Restoration(16, 0), own, gpu=gpu)
    assert asked == [(1, 16, 16, 1)] * 3 * (before + ROUNDS)


def test_codecs_are_timed_once_for_each_kind_and_never_fail_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a.png", size=(50, 50))
    write_picture(tmp_path / "b.PNG", size=(50, 50))
    (tmp_path / "broken.png").write_text("text")
    order = order_of(tmp_path, "a.png")
    times = CodecTimes(order)
    one, four = Extent("png", 50, 50, 3, 1), Extent("png", 100, 100, 3, 1)
    decoded: list[int] = []
    original = codec.decode

    def decode(data: bytes, **how: Any) -> Any:
        decoded.append(len(data))
        if data == b"text":
            raise ZeroDivisionError("whatever a decoder may throw")
        return original(data, **how)

    def job(name: str) -> Job:
        return Job(tmp_path / name, tmp_path / "out/x.png", natural=False, format="png")

    monkeypatch.setattr(codec, "decode", decode)
    assert times.seconds(job("broken.png"), one) == 0
    assert times.seconds(job("missing.png"), one) == 0
    measured = times.seconds(job("a.png"), one)
    assert measured > 0, "a first one that cannot be read does not stand for its kind"
    assert times.seconds(job("b.PNG"), four) == pytest.approx(4 * measured)
    assert times.seconds(job("broken.png"), one) == measured
    assert len(decoded) == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_time_is_foretold_within_a_factor_of_two(count: int, kbnet: Call, tmp_path: Path) -> None:
    names = [tmp_path / f"{number}.png" for number in range(count)]
    for name in names:
        write_picture(name, size=(300, 500))
    words: tuple[str | Path, ...] = (
        "denoise",
        *names,
        "-o",
        f"{tmp_path}/out/",
        "-w",
        "denoise-small",
        "--precision",
        "fp32",
    )
    _, plan, _ = plan_of(kbnet, *words)
    expected = sum(each["seconds"] for each in plan)
    kbnet(*words, "--strength", "0", "-q")  # what loading and reading take
    started = time.perf_counter()
    kbnet(*words, "--strength", "0", "--overwrite", "-q")
    without = time.perf_counter() - started
    started = time.perf_counter()
    assert kbnet(*words, "--overwrite", "-q").code == 0
    taken = time.perf_counter() - started - without
    assert expected / 2 < taken < expected * 2, (expected, taken)
