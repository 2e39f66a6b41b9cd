"""kbnet between other programs: what the README shows, run as it stands there, and how it ends when nobody listens."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from kbnet_cli.formats import chunks, codec
from kbnet_cli.formats.development import Development
from kbnet_cli.formats.stream import pictures
from tests.mosaics import mosaic_dng
from tests.pictures import picture, write_picture

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECONDS = 120
"""No line takes longer, on a busy machine either."""
SCANS = ("1.jpg", "two words.jpg", "3\n.jpg", "ξ.jpg", "5.jpg")

needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell and its pipes")


@dataclass(frozen=True)
class Place:
    """A folder with the files that the README's lines name, and how lines are run in it."""

    folder: Path
    environment: dict[str, str]

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line; each program of a pipe must end well for it to end well."""
        words = ["bash", "-o", "pipefail", "-c", line]
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def kbnet(self, *words: str | Path, **wishes: object) -> subprocess.Popen[bytes]:
        """Start kbnet alone."""
        command = [sys.executable, "-m", "kbnet_cli", *map(str, words)]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **wishes)  # type: ignore[call-overload]


@pytest.fixture
def place(tmp_path: Path, identity_weights: Path) -> Place:
    """An empty folder, the kbnet of this environment, and weights that change nothing."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "kbnet"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kbnet_cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    names = ("KBNET_WEIGHTS_DENOISE", "KBNET_WEIGHTS_DEJPEG")
    environment = os.environ | dict.fromkeys(names, str(identity_weights))
    environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment |= {"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    return Place(tmp_path / "work", environment)


def shown() -> list[str]:
    """Return the README's lines for the shell."""
    section = re.search(r"^## In pipes and scripts$.*?^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert section is not None
    return re.sub(r"(\\|&&)\n +", lambda end: end[1].strip("\\"), section[1]).splitlines()


def raw_file(folder: Path) -> None:
    light = np.clip(np.random.default_rng(0).normal(0.3, 0.03, (64, 96, 3)), 0, 1)
    (folder / "a.cr2").write_bytes(mosaic_dng(light))


def dng_with_preview(folder: Path) -> None:
    raw_file(folder)
    photo = codec.decode((folder / "a.cr2").read_bytes(), development=Development(mode="linear"))
    (folder / "b.dng").write_bytes(codec.encode(photo, "dng").data)


def tiff(folder: Path) -> None:
    (folder / "x.tif").write_bytes(imagecodecs.tiff_encode(picture(32, 48, depth=16)))


def scans(count: int) -> Callable[[Path], None]:
    def lay(folder: Path) -> None:
        (folder / "scans").mkdir()
        for name in SCANS[:count]:
            Image.fromarray(picture(24, 32)).save(folder / "scans" / name, quality=95)

    return lay


def scans_with_a_torn_one(folder: Path) -> None:
    scans(2)(folder)
    (folder / "scans/torn.jpg").write_bytes((folder / "scans/1.jpg").read_bytes()[:300])


def film(folder: Path) -> None:
    light = "nullsrc=size=64x48:rate=25,format=rgb24,geq=r='3*X':g='4*Y':b='60*N'"
    source = ["-f", "lavfi", "-i", light, "-frames:v", "4", "-c:v", "mpeg4", "-q:v", "2"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "in.mp4"], cwd=folder, timeout=SECONDS, check=True)


def photographed(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x013B], exif[0x8298], exif[0x0110] = "A. Nobody", "nobody 2026", "a camera"
    Image.fromarray(picture(48, 64)).save(folder / "scan.jpg", exif=exif)


def frames(path: Path) -> np.ndarray:
    """Return the pictures of a film."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    samples = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout
    return np.frombuffer(samples, np.uint8).reshape(-1, 48, 64, 3).astype(np.int16)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB")).astype(np.int16)


def a_jpeg_of_the_raw_file(folder: Path, said: str) -> None:
    assert pixels(folder / "b.jpg").shape == (64, 96, 3)
    assert pixels(folder / "b.jpg").std() > 1


def the_same_samples(folder: Path, said: str) -> None:
    np.testing.assert_array_equal(imagecodecs.png_decode((folder / "y.png").read_bytes()), picture(32, 48, depth=16))


def all_scans_are_clean(folder: Path, said: str) -> None:
    are_clean(folder / "scans", folder / "clean")


def all_scans_are_clean_in_their_folder(folder: Path, said: str) -> None:
    assert [path.name for path in visible(folder / "clean")] == ["scans"]
    are_clean(folder / "scans", folder / "clean/scans")


def are_clean(before: Path, after: Path) -> None:
    assert [path.name for path in visible(after)] == [path.name for path in visible(before)]
    for one, other in zip(visible(before), visible(after), strict=True):
        assert np.abs(pixels(one) - pixels(other)).mean() < 2


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def the_same_film(folder: Path, said: str) -> None:
    before, after = frames(folder / "in.mp4"), frames(folder / "out.mp4")
    assert before.shape == after.shape == (4, 48, 64, 3)
    assert np.abs(before - after).mean() < 8


def frames_as_files(folder: Path, said: str) -> None:
    found = sorted((folder / "frames").glob("*.jpg"))
    assert [path.name for path in found] == [f"stdin-000{number}.jpg" for number in (1, 2, 3, 4)]
    for path, frame in zip(found, frames(folder / "in.mp4"), strict=True):
        assert np.abs(pixels(path) - frame).mean() < 8


def a_preview(folder: Path, said: str) -> None:
    assert pixels(folder / "preview.jpg").shape == (64, 96, 3)


def the_torn_one_is_named(folder: Path, said: str) -> None:
    assert len(said.splitlines()) == 1
    assert "torn.jpg: " in said
    assert len(visible(folder / "clean")) == 2


def its_author_and_nothing_else(folder: Path, said: str) -> None:
    with Image.open(folder / "web.jpg") as opened:
        exif = opened.getexif()
        assert opened.size == (32, 24)
    assert (exif.get(0x013B), exif.get(0x8298)) == ("A. Nobody", "nobody 2026")


@dataclass(frozen=True)
class Case:
    """What a line of the README needs, what it must have done, and how it ends."""

    lay: Callable[[Path], None]
    check: Callable[[Path, str], None]
    code: int = 0


CASES = {
    "cat a.cr2 | ": Case(raw_file, a_jpeg_of_the_raw_file),
    "convert x.tif": Case(tiff, the_same_samples),
    "find scans -name '*.jpg' -print0 | kbnet": Case(scans(4), all_scans_are_clean_in_their_folder),
    "find scans -name '*.jpg' -print0 | xargs": Case(scans(5), all_scans_are_clean),
    "parallel ": Case(scans(2), all_scans_are_clean),
    "ffmpeg -v error -i in.mp4 -f image2pipe -c:v ppm": Case(film, the_same_film),
    "ffmpeg -v error -i in.mp4 -f image2pipe -c:v mjpeg": Case(film, frames_as_files),
    "exiftool ": Case(dng_with_preview, a_preview),
    "kbnet denoise scans/*.jpg": Case(scans_with_a_torn_one, the_torn_one_is_named, code=1),
    "kbnet denoise scan.jpg": Case(photographed, its_author_and_nothing_else),
}


def missing(line: str) -> list[str]:
    """Return the programs of a line that are not installed, or are others of the same name."""
    names = set(re.findall(r"(?:^|[|&] *)([a-z]+)", line)) | {"bash"}
    lacking = sorted(name for name in names - {"kbnet"} if shutil.which(name) is None)
    for name, option, makers in (("convert", "-version", "ImageMagick"), ("parallel", "--version", "GNU parallel")):
        if name in names - set(lacking):
            told = subprocess.run([name, option], capture_output=True, text=True, timeout=SECONDS, check=False)
            lacking += [] if makers in told.stdout else [f"{makers}'s {name}"]
    return lacking


def test_every_line_of_the_readme_is_run() -> None:
    lines = shown()
    assert [key for key in CASES if sum(line.startswith(key) for line in lines) != 1] == []
    assert len(lines) == len(CASES)


@needs_shell
@pytest.mark.programs
@pytest.mark.parametrize("key", CASES)
def test_the_readme_s_line(key: str, place: Place) -> None:
    line = next(line for line in shown() if line.startswith(key))
    if lacking := missing(line):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    case = CASES[key]
    case.lay(place.folder)
    done = place.run(line)
    assert done.returncode == case.code, done.stderr
    case.check(place.folder, done.stdout)


@needs_shell
@pytest.mark.programs
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_frames_as_png_come_out_as_they_went_in(place: Place) -> None:
    film(place.folder)
    made = place.run(
        "ffmpeg -v error -i in.mp4 -f image2pipe -c:v png - | tee in.bin | kbnet denoise --stream - -o - > out.bin"
    )
    assert made.returncode == 0, made.stderr
    before, after = (list(pictures(io.BytesIO((place.folder / name).read_bytes()))) for name in ("in.bin", "out.bin"))
    assert len(before) == 4
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(imagecodecs.png_decode(one), imagecodecs.png_decode(other))


def test_each_picture_of_a_stream_comes_out_before_the_next_goes_in(place: Place) -> None:
    sent = [bytes(imagecodecs.png_encode(picture(16, 16, seed=seed))) for seed in range(3)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = place.kbnet("denoise", "--stream", "-", "-o", "-", "-q", **pipes)
    watchdog = threading.Timer(SECONDS, running.kill)  # else a picture held back would be waited for without end
    watchdog.start()
    with running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        answers = pictures(running.stdout)
        for data in sent:
            running.stdin.write(data)
            running.stdin.flush()
            np.testing.assert_array_equal(imagecodecs.png_decode(next(answers)), imagecodecs.png_decode(data))
        running.stdin.write(sent[0][:100])
        running.stdin.close()
        assert next(answers, None) is None, "a picture that is cut short gives nothing"
        said = running.stderr.read().decode()
    watchdog.cancel()
    assert running.returncode == 1
    assert "error: picture 4 of standard input: ends after 100 bytes" in said
    assert "Traceback" not in said


def test_words_never_come_between_the_bytes(place: Place) -> None:
    samples = write_picture(place.folder / "a.png", depth=16)
    running = place.kbnet("denoise", "a.png", "-o", "-", "-v", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, err
    assert b"device: " in err
    assert chunks.parse(out).trailing == b""
    np.testing.assert_array_equal(imagecodecs.png_decode(out), samples)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of its own")
@pytest.mark.parametrize("words", [("a.png",), ("--stream", "-")])
def test_no_picture_goes_to_a_terminal(words: tuple[str, ...], place: Place) -> None:
    write_picture(place.folder / "a.png")
    ours, theirs = os.openpty()
    with (place.folder / "a.png").open("rb") as source, contextlib.closing(os.fdopen(ours, "rb", buffering=0)):
        running = place.kbnet("denoise", *words, "-o", "-", stdin=source, stdout=theirs, stderr=subprocess.PIPE)
        os.close(theirs)
        _, err = running.communicate(timeout=SECONDS)
    assert running.returncode == 2
    assert b"a picture would be written to the terminal" in err


@contextlib.contextmanager
def unread() -> Iterator[int]:
    """Give a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [(("weights", "list"), ""), (("weights", "list", "--json"), "1"), (("--help",), ""), (("--version",), "1")],
)
def test_words_that_nobody_reads_end_quietly(words: tuple[str, ...], unbuffered: str, place: Place) -> None:
    place.environment["PYTHONUNBUFFERED"] = unbuffered
    with unread() as pipe:
        running = place.kbnet(*words, stdout=pipe, stderr=subprocess.PIPE)
        _, err = running.communicate(timeout=SECONDS)
    assert (running.returncode, err) == (141, b"")


@pytest.mark.parametrize("words", [("paint",), ("denoise", "-"), ("weights", "path", "nothing")])
def test_errors_that_nobody_reads_end_quietly(words: tuple[str, ...], place: Place) -> None:
    with unread() as pipe:
        running = place.kbnet(*words, stdout=subprocess.PIPE, stderr=pipe)
        out, _ = running.communicate(timeout=SECONDS)
    assert (running.returncode, out) == (141, b"")


def test_a_picture_that_is_read_in_part_ends_quietly(place: Place) -> None:
    write_picture(place.folder / "a.png", size=(700, 700))
    words = ("denoise", "a.png", "-o", "-", "--format", "ppm", "--strength", "0", "-q")
    running = place.kbnet(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stderr is not None
    with running:
        assert os.read(running.stdout.fileno(), 2) == b"P6"
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141


def begun(place: Place) -> subprocess.Popen[bytes]:
    """Start kbnet on a stream that goes on, and give it one picture larger than a pipe."""
    words = ("denoise", "--stream", "-", "-o", "-", "--format", "ppm", "--strength", "0", "-q")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = place.kbnet(*words, **pipes)
    assert running.stdin is not None
    running.stdin.write(imagecodecs.png_encode(picture(400, 400)))
    running.stdin.flush()
    return running


def test_a_stream_that_waits_ends_when_nobody_reads_its_pictures(place: Place) -> None:
    with begun(place) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert os.read(running.stdout.fileno(), 2) == b"P6"
        running.stdout.close()
        assert running.wait(timeout=SECONDS) == 141
        assert running.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that end one process")
def test_a_stream_that_waits_ends_at_the_first_ctrl_c(place: Place) -> None:
    with begun(place) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert next(pictures(running.stdout)).startswith(b"P6")
        running.send_signal(signal.SIGINT)
        try:
            assert running.wait(timeout=SECONDS / 4) == 130
        finally:
            running.kill()
        assert b"Traceback" not in running.stderr.read()


def test_photos_after_that_are_not_begun_and_none_is_half_written(place: Place) -> None:
    for number in range(30):
        write_picture(place.folder / f"{number:02}.png", size=(64, 64))
    names = sorted(place.folder.glob("*.png"))
    with unread() as pipe:
        running = place.kbnet("denoise", *names, "-o", "out/", "--json", "-q", stdout=pipe, stderr=subprocess.PIPE)
        _, err = running.communicate(timeout=SECONDS)
    assert (running.returncode, err) == (141, b"")
    written = visible(place.folder / "out")
    assert 1 <= len(written) < 20
    for path in written:
        assert imagecodecs.png_decode(path.read_bytes()).shape == (64, 64, 3)


BROKEN = """
import sys
from kbnet_cli import cli
{before}
sys.argv = ["kbnet", {words}]
cli.main()
"""


def test_a_broken_pipe_of_a_photo_is_that_photo_s(place: Place) -> None:
    write_picture(place.folder / "a.png")
    before = """
from kbnet_cli.formats import codec
def decode(*_, **__): raise BrokenPipeError(32, "Broken pipe")
codec.decode = decode
"""
    program = BROKEN.format(before=before, words='"denoise", "a.png"')
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=place.folder, env=place.environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 1
    assert "error: a.png: unexpected BrokenPipeError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_pipe_that_is_our_mistake_is_not_hushed_up(place: Place) -> None:
    before = """
@cli.app.command("mistaken")
def mistaken() -> None: raise BrokenPipeError(32, "Broken pipe")
"""
    command = [sys.executable, "-c", BROKEN.format(before=before, words='"mistaken"')]
    done = subprocess.run(
        command, cwd=place.folder, env=place.environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 1
    assert "BrokenPipeError: [Errno 32] Broken pipe" in done.stderr
