"""What the shell completes, in the program's own words and in the real bash, zsh and fish."""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from kbnet_cli import catalogue
from kbnet_cli.cli import app, completing, shells
from kbnet_cli.cli.completing import Candidate
from kbnet_cli.cli.shells import bare

PROGRAM = "import sys; from kbnet_cli.cli import main; main()"
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def root() -> Any:
    return typer.main.get_command(app)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where there are pictures and other things, and names that shells have to quote."""
    place = tmp_path / "here"
    (place / "Sommer & Sonne").mkdir(parents=True)
    for name in ("a 10.jpg", "a 2.CR3", "it's.png", 'say "yes".tif', "notes.txt", ".hidden.jpg", "mine.safetensors"):
        (place / name).touch()
    (place / "Sommer & Sonne" / "cost $5.jpg").touch()
    (place / "Sommer & Sonne" / "ä ö.nef").touch()
    monkeypatch.chdir(place)
    return place


def values(root: Any, *words: str) -> list[str]:
    return [one.value for one in completing.candidates(root, words)]


def test_commands_are_completed(root: Any) -> None:
    assert values(root, "de") == ["denoise", "derain", "deblur", "dejpeg"]
    assert values(root, "weights", "p") == ["pull", "path", "publish"]
    assert values(root, "unknown", "") == []


def test_options_are_completed_and_those_that_are_given_are_not(root: Any) -> None:
    assert values(root, "denoise", "--over") == ["--overlap", "--overwrite"]
    assert values(root, "denoise", "--overwrite", "--over") == ["--overlap"]
    assert "--sigma" in values(root, "evaluate", "--sigma", "15", "--s"), "it may be given again"
    assert values(root, "denoise", "--", "--over") == []


def test_inputs_are_folders_and_pictures_in_the_order_of_people(root: Any, folder: Path) -> None:
    assert list(completing.candidates(root, ["denoise", ""])) == [
        Candidate("a 2.CR3", "file"),
        Candidate("a 10.jpg", "file"),
        Candidate("it's.png", "file"),
        Candidate('say "yes".tif', "file"),
        Candidate("Sommer & Sonne", "folder"),
    ]
    assert values(root, "denoise", "a 2.CR3", "-o", "x", "it") == ["it's.png"], "a second input, behind an option"
    assert values(root, "denoise", ".h") == [".hidden.jpg"]
    assert values(root, "denoise", "Sommer & Sonne/c") == ["Sommer & Sonne/cost $5.jpg"]
    assert values(root, "denoise", "no such folder/") == []
    assert "notes.txt" in values(root, "denoise", "-o", ""), "an output may be called anything"
    assert values(root, "denoise", "-", "<", "n") == ["notes.txt"], "behind < stands any file"
    assert values(root, "denoise", "--weights-folder", "") == ["Sommer & Sonne"]


def test_home_is_looked_into_and_stays_as_it_is_typed(root: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir("/")
    assert values(root, "denoise", "~/it") == ["~/it's.png"]


def test_weights_are_those_of_the_task_and_families_and_files(root: Any, folder: Path) -> None:
    assert values(root, "denoise", "-w", "si") == ["sidd"]
    assert values(root, "denoise", "-w", "gaussian-color") == [
        "gaussian-color-15", "gaussian-color-25", "gaussian-color-50", "gaussian-color",
    ]  # fmt: skip
    assert values(root, "derain", "-w", "") == ["derain-small", "derain", "mine.safetensors", "Sommer & Sonne"]
    assert set(values(root, "bench", "-w", "")) >= {entry.name for entry in catalogue.ENTRIES}
    assert values(root, "denoise", "--weights=si") == ["--weights=sidd"]
    assert values(root, "denoise", "-rwsi") == ["-rwsidd"]


def test_weights_that_lie_in_the_folder_are_completed(
    root: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("my-camera", "sidd"):
        (kept / f"{name}.json").write_text("{}")
    given = ("--weights-folder", str(kept))
    assert values(root, "denoise", *given, "-w", "my") == ["my-camera"]
    assert values(root, "denoise", *given, "-w", "sid") == ["sidd"]
    assert values(root, "weights", "remove", *given, "") == ["my-camera", "sidd"]
    config = tmp_path / "config.toml"
    config.write_text(f'weights_folder = "{kept.as_posix()}"\n')
    monkeypatch.setenv("KBNET_CONFIG", str(config))
    assert values(root, "weights", "path", "my") == ["my-camera"]
    monkeypatch.setenv("KBNET_WEIGHTS_FOLDER", str(tmp_path / "none"))
    assert values(root, "weights", "path", "my") == []


def test_names_are_those_that_a_command_can_do_something_with(root: Any) -> None:
    assert values(root, "weights", "pull", "") == ["sidd", "derain"]
    assert values(root, "weights", "pull", "sidd", "d") == ["derain"]
    assert values(root, "weights", "remove", "") == []
    assert values(root, "weights", "import", "x.pth", "--as", "gaussian-gray-1") == ["gaussian-gray-15"]
    assert "denoise-small" in values(root, "weights", "path", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("denoise", "--format", "p"), ["png", "ppm"]),
        (("denoise", "--format=t"), ["--format=tif"]),
        (("denoise", "--depth", "1"), ["10", "12", "16"]),
        (("denoise", "--device", ""), ["auto", "cpu", "cuda", "mps", "xpu"]),
        (("denoise", "--device", "cpu,"), ["cpu,cpu"]),
        (("denoise", "--device", "cuda:0,c"), ["cuda:0,cuda:"]),
        (("denoise", "--device", "auto,"), []),
        (("denoise", "--precision", ""), ["auto", "fp32", "tf32", "bf16"]),
        (("denoise", "--tile", ""), ["auto"]),
        (("evaluate", "--task", "der"), ["derain"]),
        (("evaluate", "--channel", ""), ["rgb", "y"]),
        (("denoise", "--quality", ""), []),
        (("--show-completion", ""), list(SHELLS)),
        (("help", "fo"), ["formats"]),
        (("help", "den"), ["denoise"]),
        (("help", "weights", "pu"), ["pull", "publish"]),
    ],
)
def test_values_are_completed(root: Any, words: tuple[str, ...], expected: list[str]) -> None:
    assert values(root, *words) == expected


def test_recipes_are_toml(root: Any, folder: Path) -> None:
    (folder / "mine.toml").touch()
    assert values(root, "train", "m") == ["mine.toml"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"a\ b", "a b"),
        ('"a b', "a b"),
        ("'it'\\''s'", "it's"),
        (r'"cost \$5 \n', r"cost $5 \n"),
        ("'a\\b'", "a\\b"),
        ('x"y z"w', "xy zw"),
    ],
)
def test_quotes_of_the_shell_are_taken_off(typed: str, meant: str) -> None:
    assert bare(typed) == meant


def asked(shell: str, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Call the program as the script of a shell does."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env=os.environ | {shells.VARIABLE: shell} | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_what_is_wrong_with_settings_is_not_told_while_completing(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("device = [")
    for environment in (
        {"KBNET_CONFIG": str(config)},
        {"KBNET_CONFIG": str(tmp_path / "missing")},
        {"KBNET_WEIGHTS_FOLDER": str(config)},
        {"KBNET_DEVICE": "steam engine"},
    ):
        found = asked("fish", "denoise", "-w", "sid", **environment)
        assert (found.stdout.partition("\t")[0], found.stderr) == ("sidd", ""), environment
    unknown = asked("tcsh", "denoise", "")
    assert (unknown.stdout, unknown.stderr, unknown.returncode) == ("", "", 0)


def test_bash_takes_words_apart_at_equals_and_gets_the_rest() -> None:
    assert asked("bash", "denoise", "--format", "=", "p").stdout.split() == ["words", "png", "ppm"]
    assert asked("bash", "denoise", "--format", "=").stdout.split()[:2] == ["words", "auto"]
    assert asked("bash", "denoise", "$HOME/").stdout.split() == ["default"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_shown_for_any_shell_in_any_environment(shell: shells.Shell) -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--show-completion", shell], env={}, capture_output=True, text=True, check=True
    )
    assert (found.stdout, found.stderr) == (shells.SCRIPTS[shell], "")


SLOW = ("torch", "rich", "numpy", "huggingface_hub", "filelock")


@pytest.mark.parametrize("words", [["denoise", "-w", "s"], ["denoise", "x"], ["weights", "remove", ""], ["help", ""]])
def test_completion_imports_nothing_slow(words: list[str]) -> None:
    program = (
        "import sys, typer; from kbnet_cli.cli import app, completing;"
        "list(completing.candidates(typer.main.get_command(app), sys.argv[1:]));"
        f"print(*(name for name in {SLOW} if name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


LINES = {
    "kbnet deno\ta.jpg": ["denoise", "a.jpg"],
    "kbnet denoise --overw\tx": ["denoise", "--overwrite", "x"],
    "kbnet denoise -w si\tx": ["denoise", "-w", "sidd", "x"],
    "kbnet denoise --format=t\tx": ["denoise", "--format=tif", "x"],
    "kbnet denoise it\t-o x": ["denoise", "it's.png", "-o", "x"],
    "kbnet denoise 'say\t-o x": ["denoise", 'say "yes".tif', "-o", "x"],
    'kbnet denoise "a 2\t-o x': ["denoise", "a 2.CR3", "-o", "x"],
    "kbnet denoise a\\ 1\t-o x": ["denoise", "a 10.jpg", "-o", "x"],
    "kbnet denoise Som\tc\t-o x": ["denoise", "Sommer & Sonne/cost $5.jpg", "-o", "x"],
    "kbnet denoise ./Som\tä\t-o x": ["denoise", "./Sommer & Sonne/ä ö.nef", "-o", "x"],
    "kbnet denoise -w mine\tx": ["denoise", "-w", "mine.safetensors", "x"],
    "kbnet denoise ~/it\t-o x": ["denoise", "HOME/it's.png", "-o", "x"],
    "kbnet denoise ~/Som\tc\t-o x": ["denoise", "HOME/Sommer & Sonne/cost $5.jpg", "-o", "x"],
}
"""What is typed, and the arguments that the program is then called with."""
READY, CALLED = "READY>", "CALLED>"


@pytest.mark.programs
@pytest.mark.parametrize("shell", SHELLS)
def test_real_shells_complete(
    shell: shells.Shell, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    programs, script, called = tmp_path / "programs", tmp_path / "script", tmp_path / "called"
    programs.mkdir()
    kbnet = programs / "kbnet"
    kbnet.write_text(
        f'#!/bin/sh\nif [ -n "${shells.VARIABLE}" ]; then exec "{sys.executable}" -c "{PROGRAM}" "$@"; fi\n'
        f"printf '%s\\0' \"$@\" >> '{called}'\nprintf '\\n' >> '{called}'\necho '{CALLED}'\n"
    )
    kbnet.chmod(0o755)
    script.write_text(shells.show(shell), encoding="utf-8")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"HOME": str(folder), "TERM": "xterm", "LC_ALL": "C.UTF-8", "PS1": READY}.items():
        monkeypatch.setenv(name, value)
    beginning = tmp_path / "rc" / ".zshrc"
    beginning.parent.mkdir()
    monkeypatch.setenv("ZDOTDIR", str(beginning.parent))
    zsh = "setopt no_global_rcs; autoload -Uz compinit && compinit -u -D\n" if shell == "zsh" else ""
    beginning.write_text(f"{zsh}. '{script}'\nPS1='{READY}'\n")
    command = {
        "bash": ["bash", "--noprofile", "--rcfile", str(beginning), "-i"],
        "zsh": ["zsh", "-o", "no_global_rcs", "-i"],
        "fish": ["fish", "--no-config", "-i", "-C", f"source {script}; function fish_prompt; echo -n '{READY}'; end"],
    }[shell]
    screen = converse(command, list(LINES))
    calls = [call.split("\0")[:-1] for call in called.read_text(encoding="utf-8").splitlines()]
    expected = {line: [word.replace("HOME", str(folder)) for word in words] for line, words in LINES.items()}
    assert dict(zip(LINES, calls, strict=False)) == expected, screen


def converse(command: list[str], lines: list[str]) -> str:
    """Run a shell in a terminal, type a line whenever it is ready for one, and return all that it showed."""
    terminal = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *command]
    with subprocess.Popen(terminal, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        shown, typed, end = "", 0, time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if select.select([process.stdout], [], [], 1)[0]:
                shown += process.stdout.read(65536).decode(errors="replace")
                ready = READY in shown.rpartition(CALLED)[2] and shown.count(CALLED) == typed
                if ready and typed <= len(lines):
                    process.stdin.write(f"{[*lines, 'exit'][typed]}\r".encode())
                    typed += 1
        process.kill()
    return shown
