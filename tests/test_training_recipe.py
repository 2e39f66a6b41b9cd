"""Recipes: what they may say, what is wrong in them, and the photos they name."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from kbnet_cli.catalogue import BUNDLED, Entry
from kbnet_cli.checkpoint import outline
from kbnet_cli.errors import UsageError
from kbnet_cli.networks.kbnet_l import KBNetLSizes
from kbnet_cli.training.photos import differences, read_photos
from kbnet_cli.training.recipe import Recipe, read_recipe

WEIGHTS = Path(__file__).parent.parent / "weights"
RECIPES = sorted(WEIGHTS.glob("*-*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_project_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.data.photos == "photos.toml"
    assert recipe.facts.card == f"{path.stem}.md"


@pytest.mark.parametrize("entry", BUNDLED, ids=lambda entry: entry.name)
def test_bundled_weights_are_what_their_recipe_makes(entry: Entry) -> None:
    assert entry.path is not None
    recipe = read_recipe(entry.path.with_suffix(".toml"))
    found = outline(entry.path)
    assert found.sizes == recipe.network
    facts = recipe.facts
    assert (found.facts.task, found.facts.tile) == (recipe.task, facts.tile)
    assert (found.facts.limit, found.facts.sigma, found.facts.card) == (facts.limit, facts.sigma, facts.card)


def read(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    return read_recipe(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("[degradations.gaussian]\nstrength = 3", "degradations.gaussian.unknown key 'strength'"),
        ("[degradations.snow]", "degradations.unknown key 'snow'"),
        ("[degradations.gaussian]\nsigma = 25", "degradations.gaussian.sigma is 25, expected"),
        ("[degradations.gaussian]\nsigma = [1.0, 2.0, 3.0]", "degradations.gaussian.sigma is"),
        ("[degradations.gaussian]\nshare = 0", "degradations has none to take"),
        ("[degradations.gaussian]\nsigma = [20.0, 10.0]", "sigma is [20.0, 10.0], expected a range that rises"),
        ("[degradations.gaussian]\nshare = -1.0", "gaussian.share is -1.0, expected 0 or more"),
        (
            "[degradations.camera]\nshot = [0.0, 0.01]",
            "degradations.camera.shot is [0.0, 0.01], expected a range above",
        ),
        ("[optimisation]\nbatch = 1.5", "optimisation.batch is 1.5, expected int"),
        ("[optimisation]\nbatch = true", "optimisation.batch is True, expected int"),
        ("[optimisation]\npatch = 4", "optimisation.patch"),
        ("[optimisation]\nloss = 'l2'", "optimisation.loss is 'l2', expected 'l1' or 'psnr'"),
        ("[facts]\ncard = 1", "facts.card is 1"),
        ("data = 3", "data is 3, expected DataRecipe"),
        ("[data", "not a TOML file"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    rest = "" if "gaussian" in line else "[degradations.gaussian]\n"
    with pytest.raises(UsageError, match=r"recipe\.toml") as error:
        read(tmp_path, f'task = "denoise"\n{line}\n{rest}[network]\nwidth = 8\n')
    assert complaint in error.value.message


def test_a_recipe_must_say_what_and_how(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing key 'degradations'"):
        read(tmp_path, 'task = "denoise"')
    with pytest.raises(UsageError, match="missing key 'network'"):
        read(tmp_path, 'task = "denoise"\n[degradations.jpeg]')
    with pytest.raises(UsageError, match="has none to take"):
        read(tmp_path, 'task = "denoise"\n[degradations]\n[network]')
    with pytest.raises(UsageError, match="task is 'paint', expected 'denoise' or"):
        read(tmp_path, 'task = "paint"\n[degradations.jpeg]\n[network]')
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    assert read(tmp_path, 'task = "dejpeg"\ninit = "dejpeg-small"\n[degradations.jpeg]').network is None


def test_a_recipe_chooses_between_the_networks(tmp_path: Path) -> None:
    start = 'task = "derain"\n[degradations.rain]\n[network]\narchitecture = '
    assert read(tmp_path, start + '"KBNet-L"\nwidth = 24').network == KBNetLSizes(width=24)
    with pytest.raises(UsageError, match=r"network\.unknown key 'middle_blocks'"):
        read(tmp_path, start + '"KBNet-L"\nmiddle_blocks = 1')
    with pytest.raises(UsageError, match=r"network\.architecture is 'UNet'"):
        read(tmp_path, start + '"UNet"')


def test_the_photos_of_the_recipes_are_named_with_address_licence_and_hash() -> None:
    photos = read_photos(WEIGHTS / "photos.toml")
    assert len(photos) == len({photo.sha256 for photo in photos}) == 26
    assert all(photo.address.startswith("https://") and len(photo.sha256) == 64 and photo.licence for photo in photos)


def test_a_folder_of_photos_is_compared_with_the_recipes_list(tmp_path: Path) -> None:
    folder, listed = tmp_path / "photos", tmp_path / "photos.toml"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(folder / name)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    def entry(name: str, digest: str) -> str:
        return f'[[photo]]\nname = "{name}"\naddress = "https://x/{name}"\nlicence = "CC0"\nsha256 = "{digest}"\n'

    listed.write_text("".join(entry(*item) for item in digests.items()))
    assert list(differences(folder, listed)) == []
    # A file is known by what is in it, whatever it is called.
    (folder / "b.png").rename(folder / "c.png")
    assert list(differences(folder, listed)) == []
    listed.write_text(entry("a.png", digests["a.png"]) + entry("d.png", "0" * 64))
    told = list(differences(folder, listed))
    assert len(told) == 2
    assert told[0].startswith("1 of the recipe's 2 photos are not in")
    assert told[0].endswith(": d.png")
    assert told[1].endswith("are not among the recipe's: c.png")
    listed.write_text('[[photo]]\nname = "a.png"\n')
    with pytest.raises(UsageError, match="not a list of photos"):
        list(differences(folder, listed))
