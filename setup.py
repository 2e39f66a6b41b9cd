"""Build the compiled form of the kernel basis attention. Everything else stands in pyproject.toml.

Without a C compiler the installation goes on and the plain form runs instead.
"""

import sys

from setuptools import Extension, setup

OPTIMISE = [] if sys.platform == "win32" else ["-O3", "-std=gnu11", "-fno-math-errno", "-ffp-contract=fast"]

setup(
    ext_modules=[
        Extension(
            "kbnet_cli.kernels.kba_extension",
            sources=["kbnet_cli/kernels/kba.c"],
            depends=["kbnet_cli/kernels/kba_body.h"],
            extra_compile_args=OPTIMISE,
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
