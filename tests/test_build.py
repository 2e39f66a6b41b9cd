"""What is installed from source: the archive holds all it needs; no compiler means the plain form, not a failure."""

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import setuptools
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.parent
NEEDED = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "kbnet_cli/**/*", "weights/*")


def build(kind: str, source: Path, to: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build an "sdist" or a "wheel" of the folder `source`, as an installer does."""
    program = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    to.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", program, str(to)],
        cwd=source,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def needed() -> set[str]:
    """Name the files of this folder that are source, by their paths in it."""
    found = [path for pattern in NEEDED for path in ROOT.glob(pattern) if path.is_file()]
    made = {".pyc", ".so", ".pyd"}
    return {path.relative_to(ROOT).as_posix() for path in found if path.suffix not in made}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, made of nothing but what it needs: a list of files from an earlier build must not help."""
    folder = tmp_path_factory.mktemp("archive")
    for name in (*needed(), "MANIFEST.in"):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    built = build("sdist", folder / "source", folder / "dist")
    assert built.returncode == 0, built.stderr
    (found,) = (folder / "dist").glob("*.tar.gz")
    return found


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    return folder


def test_the_source_archive_holds_all_that_a_build_needs(unpacked: Path) -> None:
    inside = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert needed() <= inside, sorted(needed() - inside)
    assert {"kbnet_cli/kernels/kba.c", "kbnet_cli/kernels/kba_body.h", "weights/denoise-small.safetensors"} <= needed()


def test_without_a_compiler_the_plain_form_is_installed(unpacked: Path, tmp_path: Path) -> None:
    built = build("wheel", unpacked, tmp_path / "dist", CC="false", KBNET_REQUIRE_EXTENSION="")
    assert built.returncode == 0, built.stderr
    assert "no compiled form of the kernels" in built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = zipfile.ZipFile(wheel).namelist()
    assert "kbnet_cli/kernels/compiled.py" in inside
    assert "kbnet_cli/weights/denoise-small.safetensors" in inside
    assert not [name for name in inside if name.endswith((".so", ".pyd", ".c", ".h")) or name.startswith("tests/")]


def test_a_wheel_to_publish_is_not_made_without_a_compiler(unpacked: Path, tmp_path: Path) -> None:
    built = build("wheel", unpacked, tmp_path / "dist", CC="false", KBNET_REQUIRE_EXTENSION="1")
    assert built.returncode != 0
    assert not list((tmp_path / "dist").glob("*.whl"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_wheel_to_publish_holds_the_extension_for_every_later_python(unpacked: Path, tmp_path: Path) -> None:
    built = build("wheel", unpacked, tmp_path / "dist", KBNET_REQUIRE_EXTENSION="1")
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert "-cp311-abi3-" in wheel.name
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("kbnet_cli/kernels/kba_extension")]


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The build command of setup.py as it finds itself on Windows, with a compiler that only notes what it is told."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", dict)
    command = runpy.run_path("setup.py")["BuildKernels"](setuptools.Distribution())
    command.plat_name = "win-amd64"
    compiler = SimpleNamespace(
        compiler_type="msvc", initialized=False, cc="cl.exe", compile_options=["/nologo", "/O2", "/GL", "/MD"]
    )
    compiler.initialize = lambda platform: setattr(compiler, "initialized", platform)
    command.compiler = compiler
    return command


def test_windows_compiles_with_clang(windows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", {"clang-cl": "C:/LLVM/bin/clang-cl.exe"}.get)
    built: list[setuptools.Extension] = []
    monkeypatch.setattr(build_ext, "build_extension", lambda _, extension: built.append(extension))
    windows.build_extension(setuptools.Extension("some", ["some.c"]))
    assert windows.compiler.initialized == "win-amd64"
    assert windows.compiler.cc == "C:/LLVM/bin/clang-cl.exe"
    assert windows.compiler.compile_options == ["/nologo", "/O2", "/MD"]
    assert {"--target=x86_64-pc-windows-msvc", "/clang:-O3", "/clang:-std=gnu11"} <= set(built[0].extra_compile_args)


def test_windows_without_clang_has_no_compiled_form(windows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", {}.get)
    with pytest.raises(CompileError, match="clang-cl"):
        windows.build_extension(setuptools.Extension("some", ["some.c"]))
