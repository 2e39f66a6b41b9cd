"""Config files and folders that cannot be meant, and what is said of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import test_cli
from tests.test_cli import Call
from tests.test_settings import config_file, write_config

kbnet = test_cli.kbnet

BROKEN = [
    ("dvice = 'cpu'", "unknown key dvice", "did you mean device?"),
    ("denoise = 'sidd'", "unknown key denoise", "did you mean weights.denoise?"),
    ("[weights]\ndenoize = 'sidd'", "unknown key weights.denoize", "did you mean weights.denoise?"),
    ("zzz = 1", "unknown key zzz", "expected one of device, precision"),
    ("[hub]\nrepo = 'a/b'", "unknown key hub", ""),
    ("device = 1", "device is a number, expected text", "quotes"),
    ("device = true", "device is a truth value, expected text", ""),
    ("precision = ['bf16']", "precision is a list, expected text", ""),
    ("name = 2026-11-22", "name is a date, expected text", ""),
    ("[device]\nname = 'cpu'", "device is a table, expected text", ""),
    ("weights = 'sidd'", "weights is text, expected a table", "[weights]"),
    ("[weights]\ndenoise = 5", "weights.denoise is a number, expected text", ""),
    ("[weights]\ndenoise = ' '", "weights.denoise: ' ' names no weights", ""),
    ('[weights]\ndenoise = "a\\u0000"', "weights.denoise: 'a\\x00' names no weights", ""),
    ("\n\ndevice = cpu", "no TOML", "device = "),
    ("\n\ndevice = cpu", "line 3", ""),
    ("device = 'cpu'\ndevice = 'cuda'\n", "line 2", ""),
    ("device = 'gpu'", "device: no device 'gpu'", ""),
    ("device = 'cuda:'", "device: no device 'cuda:'", ""),
    ("device = 'CPU'", "device: no device 'CPU'", ""),
    ("device = ''", "device: no device ''", ""),
    ("device = 'cpu:0'", "device: no device 'cpu:0'", ""),
    ("device = 'cuda:0,'", "device: no device ''", ""),
    ("device = 'cuda:0, cuda:1'", "device: no device ' cuda:1'", ""),
    ("device = 'cuda:99999'", "device: no device 'cuda:99999'", ""),
    ("device = 'cuda:01'", "device: no device 'cuda:01'", ""),
    ("device = 'auto,cpu'", "device: auto,cpu: auto settles on devices by itself", "auto alone"),
    ("device = 'cuda:0,cpu'", "mixes cuda and cpu: tiles of one photo would differ by their rounding", "one kind"),
    ("device = 'cuda,cuda:1'", "cuda alone means all its GPUs", "use --device cuda, or numbers"),
    ("device = 'cuda:1,cuda:1'", "names a GPU twice", "once"),
    ("device = 'mps,mps'", "names a GPU twice", "once"),
    ("precision = 'fp16'", "precision: fp16 is refused: KBNet's activations leave its range", "bf16"),
    ("precision = 'fp61'", "precision: no precision 'fp61': expected one of auto, fp32, tf32, bf16", ""),
    ("name = 'photo.{ext}'", "name: 'photo.{ext}' has no {stem}", ""),
    ("name = ''", "name: '' has no {stem}", ""),
    ("name = '{stem}_{date}.{ext}'", "name: '{stem}_{date}.{ext}' has {date}, expected only {stem}, {done}, {ext}", ""),
    ("name = 'out/{stem}.{ext}'", "has a path separator", "-o"),
    ("name = 'out\\{stem}.{ext}'", "has a path separator", ""),
    ("hub_repo = 'name'", "hub_repo: 'name' is no repository of the Hub", "OWNER/NAME"),
    ("hub_repo = 'https://huggingface.co/a/b'", "is no repository of the Hub", ""),
    ("weights_folder = ''", "weights_folder: '' is no folder", ""),
]


@pytest.mark.parametrize(("text", "message", "hint"), BROKEN)
def test_a_config_file_that_cannot_be_meant_is_refused(text: str, message: str, hint: str, kbnet: Call) -> None:
    path = write_config(text)
    for words in (["denoise", "a.png"], ["bench"], ["denoise", "a.png", "--device", "cpu"]):
        shown = kbnet(*words)
        assert (shown.code, shown.stdout) == (2, "")
        first, second = shown.stderr.splitlines()
        assert first.startswith(f"error: {path}: ")
        assert message in first
        assert second.startswith("hint: ")
        assert hint in second


def test_a_config_file_that_cannot_be_read_is_refused(kbnet: Call) -> None:
    path = config_file()
    path.write_bytes(b'device = "\xff"')
    assert f"{path}: is not UTF-8 text" in kbnet("bench").stderr
    path.unlink()
    path.mkdir()
    shown = kbnet("bench")
    assert shown.code == 2
    assert f"{path}: the config file cannot be read: " in shown.stderr


FOLDERS = [
    ("~nobody-of-this-name/weights", "nobody here has that home folder"),
    ("x" * 5000, "cannot be looked into: "),
]


@pytest.mark.parametrize(("folder", "message"), FOLDERS, ids=["home", "long"])
def test_a_weights_folder_that_cannot_be_looked_for_is_refused(
    folder: str, message: str, kbnet: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: str) -> str:
        shown = kbnet("weights", "list", *words)
        assert (shown.code, shown.stdout) == (2, "")
        first, second = shown.stderr.splitlines()
        assert message in first
        assert len(first) < 400
        assert second.startswith("hint: ")
        return first

    assert refused("--weights-folder", folder).startswith("error: --weights-folder: ")
    path = write_config(f"weights_folder = {json.dumps(folder)}\n")
    assert refused().startswith(f"error: {path}: weights_folder: ")
    path.unlink()
    monkeypatch.setenv("KBNET_WEIGHTS_FOLDER", folder)
    assert refused().startswith("error: KBNET_WEIGHTS_FOLDER: ")


@pytest.mark.skipif(
    sys.platform == "win32" or (os.getuid() == 0 and shutil.which("setpriv") is None),
    reason="root may look everywhere, and there is no setpriv to take that from it",
)
def test_a_weights_folder_behind_a_closed_door_is_refused(tmp_path: Path) -> None:
    without = "-dac_override,-dac_read_search"
    before = ["setpriv", f"--inh-caps={without}", f"--bounding-set={without}"] if os.getuid() == 0 else []
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    try:
        words = [*before, *test_cli.command("weights", "list", "--weights-folder", closed / "weights")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        closed.chmod(0o700)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: --weights-folder: {closed}/weights: cannot be looked into: Permission denied",
        "hint: choose another folder, or check its permissions",
    ]
