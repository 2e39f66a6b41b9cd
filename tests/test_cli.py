"""The command as a user meets it: words in, words and exit code out."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from kbnet_cli import cli, session
from kbnet_cli.batch import Order
from kbnet_cli.journal import NAME as JOURNAL
from tests.pictures import picture, write_picture


class Result:
    """What a call of the command gave."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr


Call = Callable[..., Result]


@pytest.fixture
def kbnet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call main() in this process, as the installed command does."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*words: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["kbnet", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        assert "Traceback" not in err or "-v" in words
        return Result(code if isinstance(code, int) else 0, out, err)

    return call


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "kbnet_cli", *map(str, words)]


def test_help_imports_no_torch_and_nothing_else_that_is_slow() -> None:
    program = (
        "import sys; sys.argv = ['kbnet', '--help']\n"
        "from kbnet_cli.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'numpy', 'PIL', 'imagecodecs', 'tifffile', 'rawpy', 'safetensors'} & set(sys.modules)\n"
        "print('slow:', sorted(slow))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "slow: []" in done.stdout
    assert "denoise" in done.stdout


def test_version_and_help_of_each_verb(kbnet: Call) -> None:
    from kbnet_cli import __version__

    assert kbnet("--version").stdout == f"kbnet {__version__}\n"
    for verb in ("denoise", "derain", "deblur", "dejpeg"):
        shown = kbnet(verb, "--help")
        assert shown.code == 0
        assert f"\n      kbnet {verb} " in shown.stdout, "the example keeps its own line"


def test_one_photo_is_restored_beside_itself(kbnet: Call, tmp_path: Path, random_weights: Path) -> None:
    pixels = write_picture(tmp_path / "a.png", depth=16)
    done = kbnet("denoise", tmp_path / "a.png", "-w", random_weights, "--precision", "fp32")
    assert (done.code, done.stdout) == (0, "")
    assert "random (KBNet-S) on cpu in fp32, tiles of 64 overlapping by 16" in done.stderr
    assert "a_denoised.png" in done.stderr
    restored = imagecodecs.png_decode((tmp_path / "a_denoised.png").read_bytes())
    assert restored.dtype == np.uint16
    assert restored.shape == pixels.shape
    assert (restored != pixels).any()


def test_many_photos_one_of_them_broken(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    write_picture(tmp_path / "in/a.png")
    (tmp_path / "in/b.jpg").write_text("no picture")
    write_picture(tmp_path / "in/sub.png")
    done = kbnet("denoise", tmp_path / "in", "-r", "-o", f"{tmp_path}/out/", "-w", identity_weights)
    assert done.code == 1
    lines = done.stderr.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("error: "))
    assert "b.jpg: " in lines[at]
    assert lines[at + 1].startswith("hint: ")
    assert re.fullmatch(r"2 done, 0 skipped, 1 failed; 0\.0 MP in [0-9.]+ s \([0-9.]+ MP/s\)", lines[-1])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [JOURNAL, "a.png", "sub.png"]


def test_json_has_one_object_a_photo_and_a_summary(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    write_picture(tmp_path / "a.png")
    done = kbnet(
        "denoise", tmp_path / "a.png", tmp_path / "none.png", "-o", f"{tmp_path}/o/", "-w", identity_weights, "--json"
    )
    assert done.code == 1
    first, second, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert set(first) == {
        "event", "input", "output", "status", "seconds", "width", "height", "megapixels", "weights", "sigma", "device",
        "precision", "tile", "overlap", "error",
    }  # fmt: skip
    assert (first["status"], first["width"], first["height"], first["error"]) == ("done", 56, 40, None)
    assert (second["status"], second["error"]["code"]) == ("failed", "input")
    assert second["error"]["message"].endswith("no such file")
    counts = {"done": 1, "kept": 0, "skipped": 0, "failed": 1, "left": 0, "stopped": None}
    assert summary.items() >= ({"event": "summary", "megapixels": 0.00224} | counts).items()
    assert summary.keys() == {"event", "megapixels", "seconds", "megapixels_a_second", *counts} | {
        "device", "device_reason", "precision", "precision_reason",
    }  # fmt: skip
    assert summary["megapixels_a_second"] == pytest.approx(0.00224 / summary["seconds"], abs=1e-3)


def test_dry_run_writes_nothing_and_tells_the_plan(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    write_picture(tmp_path / "a.png", size=(100, 150))
    words = ("denoise", tmp_path / "a.png", "-w", identity_weights, "--dry-run")
    done = kbnet(*words)
    assert done.code == 0
    assert "a_denoised.png: 0.01 megapixels, 12 tiles of 64×64, about" in done.stderr
    plan = json.loads(kbnet(*words, "--json").stdout.splitlines()[0])
    assert (plan["event"], plan["tiles"]) == ("plan", 12)
    assert plan["seconds"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["denoise"], "expected INPUT, or --from-list FILE"),
        (["denoise", "a.png", "--nonsense"], "No such option"),
        (["denoise", "a.png", "--strength", "2"], "--strength"),
        (["denoise", "a.png", "--format", "bmp"], "--format"),
        (["denoise", "a.png", "--depth", "9"], "--depth"),
        (["denoise", "a.png", "--tile", "big"], "--tile"),
        (["denoise", "a.png", "--tile", "101"], "use --tile 100"),
        (["denoise", "a.png", "--overlap", "1000"], "use --overlap"),
        (["denoise", "a.png", "--sigma", "loud"], "--sigma"),
        (["denoise", "a.png", "--device", "gpu"], "no device 'gpu'"),
        (["denoise", "a.png", "--precision", "fp16"], "fp16 is refused"),
        (["denoise", "a.png", "--quality", "101"], "--quality"),
        (["denoise", "a.png", "--overwrite", "--skip-existing"], "exclude each other"),
        (["denoise", "a.png", "-o", "-", "--json"], "standard output"),
        (["denoise", "a.png", "-w", "nothing.pth"], "no such weights"),
        (["denoise", "-"], "needs an output"),
        (["paint", "a.png"], "No such command"),
    ],
)
def test_wrong_usage_is_exit_2(
    words: list[str], said: str, kbnet: Call, tmp_path: Path, identity_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "a.png")
    if words[0] == "denoise" and "-w" not in words:
        words = [*words, "-w", str(identity_weights)]
    done = kbnet(*words)
    assert done.code == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert len(list(tmp_path.iterdir())) == 1


def test_sigma_fits_the_weights_or_is_refused(kbnet: Call, tmp_path: Path) -> None:
    from tests.networks import identity_network, save

    write_picture(tmp_path / "a.png")
    fixed = save(identity_network(), tmp_path / "fixed.safetensors", task="denoise", tile="64", sigma="25")
    assert kbnet("denoise", tmp_path / "a.png", "-w", fixed, "--sigma", "25").code == 0
    refused = kbnet("denoise", tmp_path / "a.png", "-w", fixed, "--sigma", "50")
    assert refused.code == 2
    assert "made for noise of 25, got --sigma 50" in refused.stderr


def test_bare_weights_and_weights_of_another_task_are_told(kbnet: Call, tmp_path: Path) -> None:
    from tests.networks import identity_network, save

    write_picture(tmp_path / "a.png", size=(16, 16))
    bare = save(identity_network(), tmp_path / "bare.safetensors")
    assert "does not say what it was trained on" in kbnet("derain", tmp_path / "a.png", "-w", bare).stderr
    other = save(identity_network(), tmp_path / "other.safetensors", task="deblur", tile="64")
    assert "made to deblur, not to denoise" in kbnet("denoise", tmp_path / "a.png", "-w", other).stderr


def test_quiet_says_nothing_but_errors(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    write_picture(tmp_path / "a.png")
    assert kbnet("denoise", tmp_path / "a.png", "-q", "-w", identity_weights).stderr == ""
    assert kbnet("denoise", tmp_path / "a.png", "-q", "-w", identity_weights).stderr.startswith("error: ")


def test_verbose_shows_the_traceback(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    shown = kbnet("denoise", tmp_path / "none.png", "-w", identity_weights, "-v").stderr
    assert "FileNotFoundError" in shown
    assert "device: " in shown


def test_a_name_that_would_move_the_cursor_is_shown_harmless(
    kbnet: Call, tmp_path: Path, identity_weights: Path
) -> None:
    shown = kbnet("denoise", f"{tmp_path}/a\nb\x1b[31m[red].png", "-w", identity_weights).stderr
    assert "a\\nb\\x1b[31m[red].png: no such file" in shown
    assert "\x1b" not in shown


def test_a_pipe_carries_the_picture_alone(tmp_path: Path, identity_weights: Path) -> None:
    pixels = picture(depth=16)
    words = command("denoise", "-", "-o", "-", "--format", "tif", "-w", identity_weights)
    done = subprocess.run(words, input=imagecodecs.png_encode(pixels), capture_output=True, check=True)
    import tifffile

    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(done.stdout)), pixels)
    assert b"standard input" in done.stderr


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_half_file(
    number: signal.Signals, code: int, times: int, tmp_path: Path, random_weights: Path
) -> None:
    # With two photos in hand, the third begins only where the second is in the network, and holds up the fifth.
    sizes = {"1": (16, 16), "2": (600, 900), "3": (16, 16), "4": (600, 900), "5": (16, 16)}
    for name, size in sizes.items():
        write_picture(tmp_path / f"{name}.png", size=size)
    photos = [tmp_path / f"{name}.png" for name in sizes]
    words = command("denoise", *photos, "-o", f"{tmp_path}/out/", "-w", random_weights, "--jobs", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment) as running:
        assert running.stderr is not None
        wait_for(tmp_path / "out/3.png")
        running.send_signal(number)
        said = b""
        while b"stopping when" not in said:
            said = running.stderr.readline()
            assert said, "it ended without a word"
        if times == 2:
            running.send_signal(number)
        said = running.stderr.read()
    assert running.returncode == code
    assert b"Traceback" not in said
    found = {path.name for path in (tmp_path / "out").iterdir()}
    if times == 2:
        assert found == {JOURNAL, "1.png", "3.png"}
    else:  # what was in the network is finished
        assert found - {"4.png"} == {JOURNAL, "1.png", "2.png", "3.png"}
        assert b"stopped" in said or b"left" in said, said


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("words", [("weights", "path", "denoise-small"), ("weights", "list", "--json")])
def test_a_full_standard_output_is_an_error(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command(*words), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: standard output: No space left on device"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes files")
def test_a_closed_standard_output_harms_nothing(tmp_path: Path, identity_weights: Path) -> None:
    write_picture(tmp_path / "a.png", size=(24, 32))
    words = command("denoise", tmp_path / "a.png", "-w", identity_weights)
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert imagecodecs.png_decode((tmp_path / "a_denoised.png").read_bytes()).shape == (24, 32, 3)


def test_what_a_terminal_cannot_show_is_shown_as_its_number() -> None:
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command("weights", "list"), env=ascii_only, capture_output=True, text=True, check=True)
    assert "\\u03c3" in done.stdout


def test_names_of_files_are_no_emoji(kbnet: Call) -> None:
    assert "a:smile:[bold]b.png: no such file" in kbnet("denoise", "a:smile:[bold]b.png").stderr


def test_a_folder_that_cannot_be_watched_leaves_nothing_behind(kbnet: Call, tmp_path: Path) -> None:
    done = kbnet("denoise", "--watch", tmp_path / "nowhere", "-o", f"{tmp_path}/out/")
    assert done.code == 2
    assert "nowhere: is no folder, expected one to watch" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_output_of_watch_is_a_folder_without_a_slash_too(
    kbnet: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    orders: list[Order] = []

    def run(order: Order, *_rest: object, **_more: object) -> int:
        orders.append(order)
        return 0

    monkeypatch.setattr(session, "run", run)
    assert kbnet("denoise", "--watch", tmp_path / "in", "-o", tmp_path / "out").code == 0
    assert orders[0].into_folder
    assert kbnet("denoise", "--watch", tmp_path / "in", "-o", "-").code == 2
    assert len(orders) == 1


def test_a_stream_that_goes_wrong_names_its_picture_once(tmp_path: Path, identity_weights: Path) -> None:
    words = command("denoise", "-", "--stream", "-o", f"{tmp_path}/out/", "-w", identity_weights)
    done = subprocess.run(words, input=b"hello, world", capture_output=True, check=False)
    assert done.returncode == 1
    told = done.stderr.decode()
    assert "error: picture 1 of standard input: begins with b'hello, w', expected" in told
    assert "picture 1 begins" not in told
