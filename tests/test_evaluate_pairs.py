"""Which pictures belong together, by their names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kbnet_cli.errors import InputError, KBNetError, UsageError
from kbnet_cli.evaluate.collection import Collection
from kbnet_cli.evaluate.scoring import scores
from kbnet_cli.evaluate.trial import Trial


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def pairs(collection: Collection) -> dict[str, str]:
    found = {}
    for sample in collection.samples():
        assert sample.degraded is not None
        assert sample.name == sample.degraded.name
        found[sample.degraded.name] = sample.clean.name
    return found


@pytest.mark.parametrize(
    ("match", "names", "expected"),
    [
        pytest.param(
            "{name}_real.JPG={name}_mean.JPG",
            ("a_1_real.JPG", "a_1_mean.JPG", "b_real.JPG", "b_mean.JPG", "README.txt"),
            {"a_1_real.JPG": "a_1_mean.JPG", "b_real.JPG": "b_mean.JPG"},
            id="PolyU",
        ),
        pytest.param(
            "{name}_noise={name}_gt", ("01_noise.png", "01_gt.png"), {"01_noise.png": "01_gt.png"}, id="Nam, no ending"
        ),
        pytest.param(
            "{name}rain.jpg={name}ground_truth.jpg",
            ("1rain.jpg", "1ground_truth.jpg", "10rain.jpg", "10ground_truth.jpg"),
            {"1rain.jpg": "1ground_truth.jpg", "10rain.jpg": "10ground_truth.jpg"},
            id="Fu",
        ),
        pytest.param(
            "rain-{name}=norain-{name}",
            ("rain-001.png", "norain-001.png", "norain-002.png"),
            {"rain-001.png": "norain-001.png"},
            id="Rain100, a clean one too many",
        ),
        pytest.param("{name}={name}_gt", ("a.png", "a_gt.png"), {"a.png": "a_gt.png"}, id="a name within the other"),
        pytest.param("{name}.jpg={name}.png", ("a.jpg", "a.png"), {"a.jpg": "a.png"}, id="endings"),
    ],
)
def test_pairs_in_one_folder(match: str, names: tuple[str, ...], expected: dict[str, str], tmp_path: Path) -> None:
    touch(tmp_path, *names)
    assert pairs(Collection(tmp_path, match=match)) == expected


def test_pairs_in_two_folders(tmp_path: Path) -> None:
    rainy = touch(tmp_path / "rainy", "b.jpg", "a.b.webp", "notes.txt")
    clean = touch(tmp_path / "clean", "a.b.png", "b.jpg", "c.jpg")
    assert pairs(Collection(rainy, clean)) == {"a.b.webp": "a.b.png", "b.jpg": "b.jpg"}
    touch(rainy, "x_rain.png")
    touch(clean, "x_clean.png")
    assert pairs(Collection(rainy, clean, "{name}_rain={name}_clean")) == {"x_rain.png": "x_clean.png"}


@pytest.mark.parametrize(
    "match", ["", "{name}", "a=b", "{name}=x", "{name}=x/{name}", "{name}={name}=", "{name}{name}={name}"]
)
def test_a_match_that_says_nothing_is_refused(match: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--match") as raised:
        Collection(tmp_path, tmp_path, match=match).samples()
    assert "{name}_noisy" in raised.value.hint


def test_pictures_that_stand_alone_or_twice_are_named(tmp_path: Path) -> None:
    noisy, clean = touch(tmp_path / "noisy", "a.png", "b.png", "c.png"), touch(tmp_path / "clean", "b.png")

    def refused(error: type[KBNetError], *collection: Path | str | None) -> str:
        with pytest.raises(error) as raised:
            Collection(*collection).samples()  # type: ignore[arg-type]
        assert raised.value.hint
        return raised.value.message

    assert refused(InputError, noisy, clean) == (
        f"{noisy / 'a.png'}: has no clean picture {clean / 'a'} (and 1 more have none)"
    )
    assert refused(InputError, noisy, tmp_path / "none") == f"{tmp_path / 'none'}: is no folder"
    assert "compared with itself" in refused(UsageError, noisy, tmp_path / "clean" / ".." / "noisy")
    assert "holds no picture" in refused(InputError, noisy, clean, "{name}_noisy={name}_clean")
    touch(clean, "a.png", "c.png", "c.jpg")
    assert "c.png: has the same name as c.jpg" in refused(InputError, noisy, clean)
    assert pairs(Collection(noisy, clean, "{name}.png={name}.png")) == {f"{name}.png": f"{name}.png" for name in "abc"}


def test_the_two_of_a_pair_are_of_one_size_and_kind(tmp_path: Path) -> None:
    for name, shape in {"a_noisy.png": (12, 14, 3), "a_clean.png": (14, 12, 3)}.items():
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / name)
    samples = Collection(tmp_path, match="{name}_noisy={name}_clean").samples()
    with pytest.raises(InputError, match=r"a_noisy\.png: is 14×12 rgb, its clean picture a_clean\.png is 12×14 rgb"):
        list(scores(lambda given: given, samples, Trial("pairs")))
    Image.fromarray(np.zeros((12, 14), np.uint8)).save(tmp_path / "a_clean.png")
    with pytest.raises(InputError, match="14×12 grey"):
        list(scores(lambda given: given, samples, Trial("pairs")))
