"""Settings: an option, else its variable, else the config file, else what is built in; and what is refused."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
import typer
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kbnet_cli import cli, preparing, trials
from kbnet_cli.catalogue import TASKS
from kbnet_cli.cli import settling
from kbnet_cli.cli.options import HubRepo, WeightsFolder
from kbnet_cli.errors import SettingsError, UsageError
from kbnet_cli.settings import (
    BY_NAME,
    KEYS,
    Key,
    Places,
    Settings,
    check_hub_repo,
    config_place,
    default_weights_folder,
    read_config,
)
from tests import test_cli
from tests.pictures import write_picture
from tests.test_cli import Call

kbnet = test_cli.kbnet

VALUES = {
    "device": ("cpu", "cuda:0,cuda:2", "mps"),
    "precision": ("fp32", "tf32", "auto"),
    "name": ("{stem}-1.{ext}", "{stem}-2.{ext}", "{stem}-3.{ext}"),
    "hub_repo": ("a/one", "a/two", "a/three"),
    "weights_folder": ("/1", "/2", "/3"),
    "weights.denoise": ("one", "two", "three"),
    "weights.derain": ("one", "two", "three"),
    "weights.deblur": ("one", "two", "three"),
    "weights.dejpeg": ("one", "two", "three"),
}
"""Of each key: what the option, the variable and the config file say."""
COMMANDS = ("denoise", "derain", "deblur", "dejpeg", "evaluate", "bench", "doctor")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Settings]:
    """Parse a command's words as the program does, and return what it would go by."""

    def call(*words: str) -> Settings:
        found: list[Settings] = []

        def note(context: settling.Context) -> Settings:
            found.append(right(context))
            raise typer.Exit

        right = settling.settled
        for name in ("evaluating", "restoring", "tools"):
            monkeypatch.setattr(f"kbnet_cli.cli.{name}.settled", note)
        monkeypatch.setattr("kbnet_cli.cli.tools.surveyed", note)
        extra = {"evaluate": [str(tmp_path)], "bench": [], "doctor": []}.get(words[0], ["a.png"])
        cli.app([words[0], *extra, *words[1:]], standalone_mode=False)
        (one,) = found
        return one

    return call


def config_file() -> Path:
    path = config_place().path
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_config(text: str) -> Path:
    path = config_file()
    path.write_text(text, encoding="utf-8")
    return path


def in_toml(key: Key, value: str) -> str:
    table, _, word = key.name.rpartition(".")
    return (f"[{table}]\n" if table else "") + f"{word} = {json.dumps(value)}\n"


def has(command: str, key: Key) -> bool:
    """Say whether a command has a setting."""
    if key.name.startswith("weights."):
        return key.name == f"weights.{'denoise' if command in ('evaluate', 'bench') else command}"
    return key.name != "name" or command in TASKS


def value(settings: Settings, key: Key) -> str | None:
    word = key.name.partition(".")[0]
    if word in ("hub_repo", "weights_folder"):
        found = getattr(settings.places, word)
        return None if found is None else Path(found).as_posix()
    found = getattr(settings, word)
    return None if found is None else str(found)


BUILT_IN = {"device": "auto", "precision": "auto"}


@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize("variable", ["set", "empty", "unset"])
@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize(
    ("command", "key"), [(command, key) for command in COMMANDS for key in KEYS if has(command, key)]
)
def test_an_option_goes_before_a_variable_before_the_file_before_what_is_built_in(
    command: str,
    key: Key,
    option: bool,
    variable: str,
    file: bool,
    settled: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for_option, for_variable, for_file = VALUES[key.name]
    if file:
        write_config(in_toml(key, for_file))
    if variable != "unset":
        monkeypatch.setenv(key.variable, for_variable if variable == "set" else "")
    found = settled(command, *((key.option, for_option) if option else ()))
    built_in = default_weights_folder().as_posix() if key.name == "weights_folder" else BUILT_IN.get(key.name)
    expected, origin = (
        (for_option, ("option", key.option))
        if option
        else (for_variable, ("environment", key.variable))
        if variable == "set"
        else (for_file, ("file", "config.toml"))
        if file
        else (built_in, ("built in", ""))
    )
    found_value = value(found, key)
    assert found_value is not None or expected is None
    if found_value is not None:
        assert expected is not None
        assert found_value.endswith(expected)
    (part,) = [part for part in found.parts if part.key == key]
    assert (part.origin.kind, part.origin.name) == origin
    others = [other for other in KEYS if has(command, other) and other != key]
    assert {part.key for part in found.parts} == {key, *others}
    assert all(part.origin.kind == "built in" for part in found.parts if part.key != key)
    noted = [f"{key.name.partition('.')[0]}: {part.value} ({origin[1]})"]
    assert list(found.notes) == (noted if origin[0] in ("environment", "file") else [])


def test_each_setting_is_known_by_its_option_in_the_help_of_each_command(kbnet: Call) -> None:
    for command in COMMANDS:
        shown = " ".join(kbnet(command, "--help").stdout.split())
        for key in KEYS:
            assert (f"env var: {key.variable}" in shown) == has(command, key), (command, key.name)
            if has(command, key):
                assert key.option in shown


def test_the_weights_of_one_task_are_not_those_of_another(
    settled: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config('[weights]\ndenoise = "sidd"\n')
    monkeypatch.setenv("KBNET_WEIGHTS_DERAIN", "rain")
    found = {command: settled(command).weights for command in COMMANDS[:-1]}
    assert found == {
        "denoise": "sidd",
        "derain": "rain",
        "deblur": None,
        "dejpeg": None,
        "evaluate": "sidd",
        "bench": "sidd",
    }


def test_commands_in_groups_and_other_parameters_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[Settings, str]] = []
    app, group = typer.Typer(), typer.Typer()
    app.callback()(settling.configure)
    app.add_typer(group, name="weights")

    @group.command("pull")
    def pull(context: settling.Context, name: str = "mine", hub_repo: HubRepo = None) -> None:
        found.append((settling.settled(context), name))

    @group.command("path")
    def path(context: settling.Context, weights_folder: WeightsFolder = None) -> None:
        found.append((settling.settled(context), ""))

    write_config('name = "{stem}-1.{ext}"\nhub_repo = "a/b"\nweights_folder = "/w"\n')
    app(["weights", "pull"], standalone_mode=False)
    assert (found[0][0].places.hub_repo, found[0][0].notes) == ("a/b", ("hub_repo: a/b (config.toml)",))
    assert found[0][1] == "mine", "a parameter that has no variable is no setting"
    monkeypatch.setenv("KBNET_WEIGHTS_FOLDER", "/v")
    app(["weights", "path"], standalone_mode=False)
    assert found[1][0].places == Places(None, Path("/v"))


def test_paths_know_the_home_folder_and_the_files_own(
    settled: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_config('weights_folder = "below"\n')
    assert settled("denoise").places == Places(None, path.parent / "below")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").touch()
    assert settled("denoise").places == Places(None, path.parent / "below"), "not the file in the folder of the call"
    (tmp_path / "below").unlink()
    monkeypatch.setenv("KBNET_WEIGHTS_FOLDER", "below")
    monkeypatch.setenv("KBNET_WEIGHTS_DENOISE", "~/mine.pth")
    assert settled("denoise").places == Places(None, Path("below"))
    assert settled("denoise").weights == str(Path.home() / "mine.pth")
    path.write_text('weights_folder = "~/w"', encoding="utf-8")
    monkeypatch.delenv("KBNET_WEIGHTS_FOLDER")
    assert settled("denoise").places == Places(None, Path.home() / "w")


def test_the_usual_config_file_lies_in_the_platforms_folder_and_need_not_be_there() -> None:
    place = config_place({})
    assert place.path == platformdirs.user_config_path("kbnet", appauthor=False) / "config.toml"
    assert read_config(place) == place
    assert config_place({"KBNET_CONFIG": ""}) == place
    if sys.platform == "linux":
        assert place.path == Path(os.environ["XDG_CONFIG_HOME"]) / "kbnet" / "config.toml"


def test_weights_are_data_not_a_cache_that_may_be_emptied() -> None:
    assert default_weights_folder() == platformdirs.user_data_path("kbnet", appauthor=False) / "weights"
    assert default_weights_folder() != platformdirs.user_cache_path("kbnet", appauthor=False) / "weights"
    if sys.platform == "linux":
        assert default_weights_folder() == Path(os.environ["XDG_DATA_HOME"]) / "kbnet" / "weights"


def test_another_config_file_may_be_named_but_then_it_has_to_be_there(
    settled: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_config('device = "cuda"\n')
    other = tmp_path / "other.toml"
    monkeypatch.setenv("KBNET_CONFIG", str(other))
    with pytest.raises(SettingsError, match=re.escape(f"{other}: no such config file, named by KBNET_CONFIG")):
        settled("denoise")
    other.write_text('\ufeffdevice = "mps"\n', encoding="utf-8")
    assert settled("denoise").notes == ("device: mps (other.toml)",)
    monkeypatch.setenv("KBNET_CONFIG", os.devnull)
    assert settled("denoise").device == "auto", "a way to go by no config file"


def test_help_and_version_do_not_mind_a_broken_config_file(kbnet: Call) -> None:
    write_config("nonsense")
    for words in (["--help"], ["--version"], ["denoise", "--help"], ["bench", "--help"]):
        shown = kbnet(*words)
        assert (shown.code, shown.stderr) == (0, "")
        assert shown.stdout


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_what_is_wrong_with_an_option_or_a_variable_names_it(
    key: Key, kbnet: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    wrong = {"weights_folder": str(tmp_path / "file"), "name": "x", "hub_repo": "x"}.get(key.name, " ")
    command = key.name.partition(".")[2] or "denoise"
    shown = kbnet(command, "a.png", key.option, wrong)
    assert shown.code == 2
    assert shown.stderr.startswith(f"error: {key.option}: ")
    monkeypatch.setenv(key.variable, wrong)
    shown = kbnet(command, "a.png")
    assert shown.code == 2
    assert shown.stderr.startswith(f"error: {key.variable}: ")
    good = VALUES[key.name][0]
    assert not kbnet(command, "a.png", key.option, good).stderr.startswith(f"error: {key.variable}: ")


def test_a_setting_error_is_a_code_of_its_own() -> None:
    with pytest.raises(SettingsError) as caught:
        BY_NAME["device"].checked("gpu", "KBNET_DEVICE")
    assert (caught.value.code, caught.value.exit_code) == ("settings", 2)


@given(st.from_regex(r"[A-Za-z0-9._-]{1,12}(/[A-Za-z0-9._-]{1,12}){0,2}", fullmatch=True))
@hypothesis_settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_repositories_are_those_that_the_hubs_own_client_takes(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        taken = name.count("/") == 1
    except HFValidationError:
        taken = False
    if taken:
        check_hub_repo(name)
    else:
        with pytest.raises(UsageError, match="no repository of the Hub"):
            check_hub_repo(name)


def test_the_command_goes_by_the_config_file_and_says_so(
    kbnet: Call, tmp_path: Path, identity_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a.png")
    usual = f"[weights]\ndenoise = {json.dumps(str(identity_weights))}\n"
    write_config(f'name = "{{stem}}.clean.{{ext}}"\nprecision = "bf16"\n{usual}')
    monkeypatch.setenv("KBNET_DEVICE", "cpu")
    shown = kbnet("denoise", tmp_path / "a.png", "--precision", "fp32", "-v")
    assert shown.code == 0
    assert (tmp_path / "a.clean.png").is_file()
    lines = shown.stderr.splitlines()
    assert "device: cpu (KBNET_DEVICE)" in lines
    assert "name: {stem}.clean.{ext} (config.toml)" in lines
    assert f"weights: {identity_weights} (config.toml)" in lines
    assert not [line for line in lines if line.startswith("precision: ")]
    assert "identity (KBNet-S) on cpu in fp32" in shown.stderr
    quiet = kbnet("denoise", tmp_path / "a.png", "--overwrite").stderr
    assert "(config.toml)" not in quiet
    assert "identity (KBNet-S) on cpu in bf16" in quiet


def test_a_configured_device_that_is_not_there_is_an_error(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    write_config('device = "cuda:99"\n')
    write_picture(tmp_path / "a.png")
    words = ("denoise", tmp_path / "a.png", "-w", identity_weights)
    assert "device cuda:99 is not there" in kbnet(*words).stderr
    assert kbnet(*words, "--device", "cpu").code == 0


def test_a_process_of_its_own_goes_by_its_environment(tmp_path: Path, identity_weights: Path) -> None:
    write_picture(tmp_path / "a.png")
    (tmp_path / "k.toml").write_text('device = "cuda:99"\nname = "{stem}_{done}_k.{ext}"\n', encoding="utf-8")
    environment = {**os.environ, "KBNET_CONFIG": str(tmp_path / "k.toml"), "KBNET_DEVICE": "cpu"}
    words = test_cli.command("denoise", tmp_path / "a.png", "-w", identity_weights, "-o", f"{tmp_path}/out/")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_denoised_k.png"]


def test_evaluate_and_bench_go_by_the_settings(
    monkeypatch: pytest.MonkeyPatch, kbnet: Call, tmp_path: Path, identity_weights: Path
) -> None:
    write_config(f'precision = "fp32"\nhub_repo = "a/b"\n[weights]\ndenoise = {json.dumps(str(identity_weights))}\n')
    monkeypatch.setenv("KBNET_DEVICE", "cpu")
    measured = json.loads(kbnet("bench", "--size", "64", "--rounds", "1", "--json").stdout)
    assert (measured["weights"], measured["precision"], measured["device"]) == ("identity", "fp32", "cpu")
    taken: list[preparing.Wishes] = []
    monkeypatch.setattr(trials, "evaluate", lambda _collection, _trials, wishes, _voice: taken.append(wishes))
    assert kbnet("evaluate", tmp_path).code == 0
    (wishes,) = taken
    assert (wishes.weights, wishes.precision, wishes.device) == (str(identity_weights), "fp32", "cpu")
    assert wishes.places == Places("a/b", default_weights_folder())


def test_the_readme_tells_every_setting() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for key in KEYS:
        option = "`-w`, `--weights`" if key.option == "--weights" else f"`{key.option}`"
        assert f"| `{key.name}` | {option} | `{key.variable}` |" in readme


def test_settings_import_nothing_that_is_slow() -> None:
    program = (
        "import sys, kbnet_cli.settings\n"
        "print(sorted({'torch', 'numpy', 'rich', 'huggingface_hub', 'httpx2', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
