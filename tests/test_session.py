"""What a call of a restoring verb holds, and when it gives it back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kbnet_cli import afterwards, rehearsal, session
from kbnet_cli.engine import Engine
from kbnet_cli.errors import DeviceError
from tests import test_cli
from tests.pictures import write_picture
from tests.test_cli import Call

kbnet = test_cli.kbnet


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note when a network is used, closed, and followed by a command."""
    found: list[str] = []

    def noted(name: str, right: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            found.append(name)
            return right(*given, **named)

        return call

    monkeypatch.setattr(Engine, "residual", noted("tile", Engine.residual))
    monkeypatch.setattr(Engine, "close", noted("closed", Engine.close))
    monkeypatch.setattr(afterwards, "run", noted("followed", afterwards.run))
    return found


def test_the_device_is_given_back_before_a_command_follows(
    happened: list[str], kbnet: Call, tmp_path: Path, random_weights: Path
) -> None:
    write_picture(tmp_path / "a.png")
    assert kbnet("denoise", tmp_path / "a.png", "-w", random_weights, "--then", "exit 0").code == 0
    assert happened == ["tile", "closed", "followed"]


def test_the_device_is_given_back_after_an_error_and_a_plan(
    happened: list[str], kbnet: Call, tmp_path: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **_named: object) -> None:
        raise DeviceError("it is gone")

    write_picture(tmp_path / "a.png")
    words = ("denoise", tmp_path / "a.png", "-w", random_weights)
    assert kbnet(*words, "--dry-run").code == 0
    assert happened.count("closed") == 1
    assert happened[-1] == "closed"
    for place, name in ((session, "restore"), (rehearsal, "probe")):
        happened.clear()
        monkeypatch.setattr(place, name, failing)
        assert kbnet(*words, *(["--dry-run"] if place is rehearsal else [])).code == 2
        assert happened == ["closed"]
