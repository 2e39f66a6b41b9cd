"""The documents say what is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from kbnet_cli import __version__, cli
from kbnet_cli.catalogue import BUNDLED, ENTRIES
from kbnet_cli.formats.table import FORMATS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_and_every_weight_is_in_the_readme() -> None:
    command = get_command(cli.app)
    assert hasattr(command, "commands")
    for name, verb in command.commands.items():
        assert f"### kbnet {name}" in README
        assert verb.help
    for entry in ENTRIES:
        assert f"| `{entry.name}` |" in README


def test_every_format_is_in_the_readme() -> None:
    table = README.split("| format | in |")[1].split("\n\n")[0]
    for entry in FORMATS:
        title = "camera raw" if entry.name == "raw" else entry.title
        assert title in table


def test_every_bundled_weight_has_its_card_and_its_recipe() -> None:
    for entry in BUNDLED:
        assert entry.path is not None
        card = entry.path.with_suffix(".md").read_text(encoding="utf-8")
        for heading in ("What it is for", "How it was made", "Data", "Training time", "Results", "Limits", "Licence"):
            assert f"\n## {heading}" in card
        assert entry.path.with_suffix(".toml").is_file()
        assert entry.path.stat().st_size <= 8e6


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## (\S+?),? ", changelog, re.MULTILINE)
    assert first is not None
    assert first[1] == __version__


def test_the_map_of_contributing_names_every_room() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in (ROOT / "kbnet_cli").iterdir():
        name = path.name if path.is_dir() else path.stem
        if not name.startswith("__") and (path.is_dir() or path.suffix == ".py"):
            assert f"`{name}" in contributing, f"{name} is not in the map"


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = README.split("```python\n")[1].split("```")[0]
    target = tmp_path / "rocks.tif"
    block = block.replace('Path("rocks.tif")', f"Path({str(target)!r})")
    subprocess.run([sys.executable, "-c", block], check=True, cwd=ROOT)
    assert target.stat().st_size > 100_000
