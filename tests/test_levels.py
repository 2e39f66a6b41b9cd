"""Weights of several fixed noise levels as one, chosen by --sigma or by what is found in each photo."""

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch

from kbnet_cli import catalogue, cli
from kbnet_cli.catalogue import Entry, Facts
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.engine import Choice, Engine
from kbnet_cli.hub.library import Library
from kbnet_cli.levels import Levels, family, shares
from kbnet_cli.settings import Places
from tests.networks import identity_network, random_network, save
from tests.weights import PARAMETERS

CPU = Choice(torch.device("cpu"), "fp32", "test")
Call = Callable[..., tuple[int, str, str]]


def entry(sigma: float, upper: float | None = None, name: str | None = None) -> Entry:
    facts = Facts(task="denoise", tile=64, limit=(-0.5, 1.5), sigma=(float(sigma), float(upper or sigma)))
    return Entry(name or f"tiny-{sigma:g}", "for tests", "KBNet-S", 8, 3, PARAMETERS, facts, "MIT")


FAMILY = (entry(50), entry(15), entry(25), entry(0, 55, "tiny-blind"), entry(15, name="other-15"))


def engine_of(name: str) -> Engine:
    network = random_network(seed=int(name.rpartition("-")[2]))
    return Engine(Checkpoint(network, Facts(limit=(-0.5, 1.5)), name), CPU)


@pytest.fixture(autouse=True)
def _family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "ENTRIES", FAMILY)


@pytest.mark.parametrize(
    ("sigma", "expected"),
    [
        (0.0, {}),
        (5.0, {15.0: 1 / 3}),
        (15.0, {15.0: 1.0}),
        (20.0, {15.0: 0.5, 25.0: 0.5}),
        (30.0, {25.0: 0.8, 50.0: 0.2}),
        (50.0, {50.0: 1.0}),
        (90.0, {50.0: 1.0}),
    ],
)
def test_the_nearest_levels_share_what_lies_between(sigma: float, expected: dict[float, float]) -> None:
    assert shares((15.0, 25.0, 50.0), sigma) == pytest.approx(expected)


def test_a_family_is_what_its_names_and_levels_say() -> None:
    assert [member.name for member in family("tiny")] == ["tiny-15", "tiny-25", "tiny-50"]
    assert family("tiny-15") == family("none") == family(None) == ()


def test_the_published_families_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "ENTRIES", catalogue.PUBLISHED)
    for name in ("gaussian-color", "gaussian-gray"):
        assert [member.name for member in family(name)] == [f"{name}-{sigma}" for sigma in (15, 25, 50)]


def test_a_blend_adds_the_residuals_by_their_shares_and_loads_what_it_needs_once() -> None:
    loaded: list[str] = []

    def load(name: str) -> Engine:
        loaded.append(name)
        return engine_of(name)

    levels = Levels(family("tiny"), load)
    tiles = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
    low, high = engine_of("tiny-15").residual(tiles), engine_of("tiny-25").residual(tiles)
    assert levels.at(0.0) is None
    assert loaded == []
    exact = levels.at(15.0)
    assert exact is not None
    np.testing.assert_array_equal(exact.residual(tiles), low)
    assert exact.name == "tiny-15"
    blend = levels.at(17.5)
    assert blend is not None
    np.testing.assert_allclose(blend.residual(tiles), 0.75 * low + 0.25 * high, atol=1e-6)
    assert blend.name == "0.75 tiny-15 + 0.25 tiny-25"
    weak = levels.at(6.0)
    assert weak is not None
    np.testing.assert_allclose(weak.residual(tiles), 0.4 * low, atol=1e-6)
    assert loaded == ["tiny-15", "tiny-25"]


def test_each_copy_of_a_blend_counts_tiles_done_again_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def residual(_engine: Engine, tiles: np.ndarray, redone: Callable[[int], None]) -> np.ndarray:
        redone(2)
        return tiles

    monkeypatch.setattr(Engine, "residual", residual)
    blend = Levels(family("tiny"), engine_of).at(20.0)
    assert blend is not None
    other = replace(blend)
    for asked in (blend, blend, other):
        asked.residual(np.zeros((1, 8, 8, 3), np.float32))
    assert (blend.redone.total, other.redone.total) == (8, 4), "both networks had to"
    assert blend == other


@pytest.fixture
def kbnet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kbnet", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return code if isinstance(code, int) else 0, *capsys.readouterr()

    return call


@pytest.fixture
def kept(tmp_path: Path) -> None:
    """Let the two lower levels lie on the shelf."""
    library = Library(Places())
    for sigma in (15, 25):
        file = save(random_network(seed=sigma), tmp_path / f"{sigma}.safetensors")
        library.import_file(file, f"tiny-{sigma}")


def write_noisy(path: Path, sigma: float, size: int = 128) -> Path:
    y, x = np.mgrid[:size, :size] / size
    clean = 60 + 130 * np.stack([y, x, (x + y) / 2], axis=-1)
    noise = np.random.RandomState(0).normal(0, sigma, clean.shape)
    path.write_bytes(imagecodecs.png_encode(np.rint(clean + noise).astype(np.uint8)))
    return path


def events(stdout: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in stdout.splitlines()][:-1]


def test_denoise_tells_what_it_found(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    photo = write_noisy(tmp_path / "a.png", 12)
    code, _, said = kbnet("denoise", photo, "-w", identity_weights)
    assert code == 0
    assert f"note: {photo}: noise of about 12 (in 1/255)" in said
    smooth, small = write_noisy(tmp_path / "b.png", 0), write_noisy(tmp_path / "c.png", 9, size=12)
    _, _, said = kbnet("denoise", smooth, small, "-w", identity_weights)
    assert f"note: {smooth}: no white noise found" in said
    assert f"note: {small}" not in said
    _, out, _ = kbnet("denoise", photo, small, "-w", identity_weights, "--json", "--overwrite")
    first, second = events(out)
    assert first["sigma"] == pytest.approx(12, rel=0.05)
    assert second["sigma"] is None
    _, out, said = kbnet("derain", photo, "-w", identity_weights, "--json", "-o", tmp_path / "d.png")
    assert events(out)[0]["sigma"] is None
    assert "noise of" not in said


@pytest.mark.usefixtures("kept")
def test_each_photo_gets_the_weights_for_its_noise(kbnet: Call, tmp_path: Path) -> None:
    photos = [write_noisy(tmp_path / f"{sigma}.png", sigma) for sigma in (6, 20)]
    code, out, said = kbnet("denoise", *photos, "-w", "tiny", "--json", "-v")
    assert code == 0
    weak, between = events(out)
    assert str(weak["weights"]).startswith("0.4")
    assert str(weak["weights"]).endswith(" tiny-15")
    assert " tiny-15 + 0." in str(between["weights"])
    assert between["sigma"] == pytest.approx(20, rel=0.05)
    assert "tiny (noise levels 15, 25, 50) on cpu" in said
    assert said.count("tiny-15 is loaded") == said.count("tiny-25 is loaded") == 1
    _, _, said = kbnet("denoise", photos[1], "-w", "tiny", "--overwrite")
    assert f"note: {photos[1]}: noise of about 20 (in 1/255): 0." in said


@pytest.mark.usefixtures("kept")
def test_a_level_that_is_given_is_gone_by(kbnet: Call, tmp_path: Path) -> None:
    photo = write_noisy(tmp_path / "a.png", 8)
    _, out, _ = kbnet("denoise", photo, "-w", "tiny", "--sigma", "15", "--json")
    assert (events(out)[0]["weights"], events(out)[0]["sigma"]) == ("tiny-15", 15)
    _, _, said = kbnet("denoise", photo, "-w", "tiny", "--sigma", "20", "--overwrite")
    assert "noise level 20: 0.5 tiny-15 + 0.5 tiny-25" in said
    blended = imagecodecs.png_decode((tmp_path / "a_denoised.png").read_bytes())
    kbnet("denoise", photo, "-w", "tiny-15", "--sigma", "15", "--overwrite")
    assert (imagecodecs.png_decode((tmp_path / "a_denoised.png").read_bytes()) != blended).any()
    _, _, said = kbnet("denoise", photo, "-w", "tiny", "--sigma", "0", "--overwrite")
    assert "noise level 0: left as it is" in said
    same = imagecodecs.png_decode((tmp_path / "a_denoised.png").read_bytes())
    np.testing.assert_array_equal(same, imagecodecs.png_decode(photo.read_bytes()))


@pytest.mark.usefixtures("kept")
def test_what_a_family_cannot_do_is_told(kbnet: Call, tmp_path: Path) -> None:
    photo, small = write_noisy(tmp_path / "a.png", 8), write_noisy(tmp_path / "b.png", 8, size=10)
    code, _, said = kbnet("denoise", photo, "-w", "tiny", "--sigma", "40")
    assert code == 2
    assert "tiny-50: no public source known" in said
    assert "kbnet weights import FILE --as tiny-50" in said
    code, _, said = kbnet("denoise", small, photo, "-w", "tiny", "-o", f"{tmp_path}/o/")
    assert code == 1
    assert "b.png: is too small to tell its noise level" in said
    assert "1 done, 0 skipped, 1 failed" in said
    for sigma in ("-3", "nan", "inf"):
        code, _, said = kbnet("denoise", photo, "-w", "tiny", "--sigma", sigma)
        assert code == 2
        assert f"--sigma {sigma} is no noise level" in said


@pytest.mark.usefixtures("kept")
def test_a_dry_run_of_a_family_tells_what_two_levels_take(kbnet: Call, tmp_path: Path) -> None:
    code, _, said = kbnet("denoise", write_noisy(tmp_path / "a.png", 8), "-w", "tiny", "--dry-run", "-v")
    assert code == 0
    assert "9 tiles of 64×64" in said
    assert "tiny-25 is loaded" in said


def test_a_level_for_weights_that_choose_none_is_refused_with_a_way_out(kbnet: Call, tmp_path: Path) -> None:
    photo = write_noisy(tmp_path / "a.png", 8)
    blind = save(identity_network(), tmp_path / "blind.safetensors", task="denoise", sigma="0,55")
    code, _, said = kbnet("denoise", photo, "-w", blind, "--sigma", "20")
    assert code == 2
    assert "sees for itself how much there is" in said
    fixed = save(identity_network(), tmp_path / "tiny-15.safetensors", task="denoise", sigma="15")
    code, _, said = kbnet("denoise", photo, "-w", fixed, "--sigma", "20")
    assert code == 2
    assert "take the weights of all levels: -w tiny" in said
