"""Build the compiled form of the kernels. Everything else stands in pyproject.toml.

Without a C compiler the installation goes on and the plain form runs instead, unless KBNET_REQUIRE_EXTENSION=1 says
that it must not: a wheel without the compiled form would be slow for everyone who installs it.
"""

import os
import shutil
from pathlib import Path
from typing import ClassVar

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

KERNELS = Path("kbnet_cli/kernels")
REQUIRED = os.environ.get("KBNET_REQUIRE_EXTENSION") == "1"


class BuildKernels(build_ext):
    """Compile with GCC or clang, whose vector types the source is written in; on Windows that is clang-cl."""

    OPTIMISE = ("-O3", "-std=gnu11", "-fno-math-errno", "-ffp-contract=fast")
    TARGETS: ClassVar[dict[str, str]] = {
        "win-amd64": "x86_64-pc-windows-msvc",
        "win-arm64": "aarch64-pc-windows-msvc",
    }

    def build_extension(self, ext: Extension) -> None:
        """Build one extension; what is raised here is only a warning where the extension is optional.

        Raises:
            CompileError: this is Windows, and clang-cl is not on the PATH.
        """
        try:
            windows = self.compiler.compiler_type == "msvc"
            ext.extra_compile_args = self._use_clang_cl() if windows else list(self.OPTIMISE)
            super().build_extension(ext)
        except Exception:
            if not REQUIRED:
                self.warn(
                    "no compiled form of the kernels: kbnet will run the plain one, which is several times slower"
                )
            raise

    def _use_clang_cl(self) -> list[str]:
        """Put clang-cl in the place of Microsoft's compiler, whose linker and libraries it uses; return its options."""
        clang = shutil.which("clang-cl")
        if clang is None or self.plat_name not in self.TARGETS:
            raise CompileError("the kernels need clang-cl on the PATH (part of LLVM); Microsoft's compiler cannot")
        if not self.compiler.initialized:
            self.compiler.initialize(self.plat_name)
        self.compiler.cc = clang
        # Whole-program optimisation has a format of its own, which only Microsoft's compiler writes.
        self.compiler.compile_options = [option for option in self.compiler.compile_options if option != "/GL"]
        return [f"--target={self.TARGETS[self.plat_name]}", *(f"/clang:{option}" for option in self.OPTIMISE)]


setup(
    ext_modules=[
        Extension(
            "kbnet_cli.kernels.kba_extension",
            sources=sorted(path.as_posix() for path in KERNELS.glob("*.c")),
            depends=sorted(path.as_posix() for path in KERNELS.glob("*.h")),
            py_limited_api=True,
            optional=not REQUIRED,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
