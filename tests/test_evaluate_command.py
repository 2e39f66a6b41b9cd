"""kbnet evaluate as a user meets it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kbnet_cli import trials
from kbnet_cli.evaluate.likeness import luma, psnr
from kbnet_cli.evaluate.scoring import scores
from tests import test_cli
from tests.pictures import picture
from tests.test_cli import Call

kbnet = test_cli.kbnet


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    folder = tmp_path / "clean"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        Image.fromarray(picture(24, 30, seed=seed)).save(folder / f"{name}.png")
    return folder


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_table_tells_means_and_each_picture_if_asked(kbnet: Call, clean: Path, identity_weights: Path) -> None:
    words = ("evaluate", clean, "-w", identity_weights, "--precision", "fp32", "--sigma", "25", "--sigma", "50")
    told = kbnet(*words)
    assert told.code == 0
    head, first, second = rows(told.stdout)
    assert " ".join(head) == "level pictures PSNR in PSNR out gain SSIM in SSIM out least gain worse"
    assert first[:3] == ["σ", "25", "2"]
    assert second[:3] == ["σ", "50", "2"]
    assert float(first[3]) == float(first[4]) == pytest.approx(20.3, abs=0.5)  # nothing is taken away
    assert first[5] == "+0.00"
    assert first[8:] == ["+0.00", "0"]
    assert "whole" in told.stderr
    each = rows(kbnet(*words, "-v", "--tile", "16").stdout)
    assert [row[:3] for row in each[1:5]] == [["σ", level, f"{name}.png"] for level in ("25", "50") for name in "ab"]
    assert each[5] == []
    assert each[6:] == [head, first, second]
    assert np.mean([float(row[3]) for row in each[1:3]]) == pytest.approx(float(first[3]), abs=0.011)


def test_json_tells_each_picture_and_the_mean(kbnet: Call, clean: Path, random_weights: Path) -> None:
    words = ("evaluate", clean, "-w", random_weights, "--precision", "fp32", "--device", "cpu", "--json")
    found = events(kbnet(*words).stdout)
    assert [(event["event"], event["level"]) for event in found] == [
        (event, level) for level in (15.0, 25.0, 50.0) for event in ("picture", "picture", "mean")
    ]
    one, two, mean = found[:3]
    assert one.keys() == {
        "event", "kind", "level", "channel", "picture", "psnr_in", "psnr_out", "gain", "ssim_in", "ssim_out"
    }  # fmt: skip
    assert [one["picture"], two["picture"]] == ["a.png", "b.png"]
    for key in ("psnr_in", "psnr_out", "gain", "ssim_in", "ssim_out"):
        assert mean[key] == pytest.approx((one[key] + two[key]) / 2, abs=1e-4)
    assert mean["gain"] == pytest.approx(mean["psnr_out"] - mean["psnr_in"], abs=2e-4)
    assert mean["least_gain"] == min(one["gain"], two["gain"])
    assert mean["worse"] == 2  # it is a network of random numbers
    assert (mean["pictures"], mean["weights"], mean["precision"], mean["tile"]) == (2, "random", "fp32", None)
    assert events(kbnet(*words).stdout) == found
    cut = events(kbnet(*words, "--sigma", "15", "--tile", "16").stdout)
    assert cut[-1]["tile"] == 16
    assert cut[-1]["psnr_in"] == mean["psnr_in"]
    assert cut[-1]["psnr_out"] != mean["psnr_out"]


@pytest.mark.parametrize(("option", "levels"), [("jpeg", ("10", "40")), ("defocus", ("1", "2.5"))])
def test_other_degradations(
    option: str, levels: tuple[str, str], kbnet: Call, clean: Path, identity_weights: Path
) -> None:
    words = [word for level in levels for word in (f"--{option}", level)]
    told = kbnet("evaluate", clean, "-w", identity_weights, *words, "--json")
    assert told.code == 0, told.stderr
    first, second = (event for event in events(told.stdout) if event["event"] == "mean")
    assert [first["kind"], first["level"], second["level"]] == [option, float(levels[0]), float(levels[1])]
    near, far = (second, first) if option == "jpeg" else (first, second)
    assert 60 > near["psnr_out"] > far["psnr_out"] > 10
    # Whose weights are taken follows from the degradation: these are for noise, and that is told.
    assert f"to denoise, not to {'dejpeg' if option == 'jpeg' else 'deblur'}" in told.stderr


def test_pairs_on_all_channels_and_on_luma(kbnet: Call, clean: Path, identity_weights: Path, tmp_path: Path) -> None:
    rainy = tmp_path / "rainy"
    rainy.mkdir()
    degraded = np.clip(picture(24, 30) * 0.9 + [30, 0, 0], 0, 255).astype(np.uint8)
    for name in "ab":
        Image.fromarray(degraded).save(rainy / f"{name}.bmp")
    words = ("evaluate", rainy, "--clean", clean, "-w", identity_weights, "--json")
    truth = picture(24, 30)
    for more, channel, expected in (
        ((), "rgb", float(-10 * np.log10(np.mean((truth / 255 - degraded / 255) ** 2)))),
        (("--task", "derain"), "y", psnr(luma(degraded), luma(truth))),
        (("--channel", "y"), "y", psnr(luma(degraded), luma(truth))),
        (("--task", "derain", "--channel", "rgb"), "rgb", psnr(degraded, truth)),
    ):
        first, _, mean = events(kbnet(*words, *more).stdout)
        assert (mean["kind"], mean["level"], mean["channel"]) == ("pairs", None, channel)
        assert first["picture"] == "a.bmp"
        assert first["psnr_in"] == first["psnr_out"] == pytest.approx(expected, abs=1e-4)
    (rainy / "b.bmp").rename(rainy / "c.bmp")
    failed = kbnet(*words)
    assert failed.code == 1
    assert failed.stdout == ""
    assert "c.bmp: has no clean picture" in failed.stderr
    assert "hint:" in failed.stderr


def test_the_weights_are_those_of_the_task(
    kbnet: Call, clean: Path, identity_weights: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBNET_WEIGHTS_DENOISE", str(identity_weights))
    monkeypatch.setenv("KBNET_WEIGHTS_DERAIN", str(random_weights))

    def taken(*words: str | Path) -> object:
        return events(kbnet("evaluate", clean, "--sigma", "9", "--json", *words).stdout)[-1]["weights"]

    assert taken() == "identity"
    assert taken("--task", "derain") == "random"
    assert taken("--task", "derain", "-w", identity_weights) == "identity"


def test_what_excludes_each_other_is_wrong_usage(kbnet: Call, clean: Path) -> None:
    for words in (
        ("--sigma", "5", "--jpeg", "10"),
        ("--defocus", "1", "--clean", clean),
        ("--jpeg", "5", "--match", "a"),
    ):
        refused = kbnet("evaluate", clean, *words)
        assert refused.code == 2
        assert "exclude each other" in refused.stderr
    assert kbnet("evaluate", clean, "--jpeg", "101").code == 2
    assert kbnet("evaluate", clean, "--tile", "3").code == 2


def test_trials_that_are_done_are_told_after_an_interruption(
    kbnet: Call, clean: Path, identity_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def stopped(restore: object, samples: object, trial: object) -> Iterator[object]:
        if getattr(trial, "level", None) == 25:
            raise KeyboardInterrupt
        yield from scores(restore, samples, trial)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "scores", stopped)
    told = kbnet("evaluate", clean, "-w", identity_weights)
    assert told.code == 130
    assert [row[:2] for row in rows(told.stdout)[1:]] == [["σ", "15"]]
