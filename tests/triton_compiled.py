"""Triton's kernels compiled ahead of time, which needs no GPU: registers, spills, shared memory and instructions.

In a process of its own, because the tests' process may interpret kernels (TRITON_INTERPRET) and then cannot compile.
"""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SHARED_LIMITS = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
"""How many bytes of shared memory a block of threads may have, by the GPU's capability: A100, RTX 3090, H100."""


@dataclass(frozen=True)
class Request:
    """A kernel, and what it is compiled for."""

    module: str
    kernel: str
    """The name of a function with @triton.jit in the module."""
    signature: Mapping[str, str]
    """The type of each argument that is no constant, as "*bf16" or "i32", with ":16" behind it if 16 divides it.

    A launch finds that out by itself; of a pointer it is the address.
    """
    constants: Mapping[str, object]
    capability: int
    """80, 86 or 90."""
    warps: int
    stages: int


@dataclass(frozen=True)
class Compiled:
    """What came of it."""

    registers: int
    """Of each thread."""
    spills: int
    """How many instructions move registers to and from memory."""
    shared_bytes: int
    ptx: str
    sass: str

    def count(self, pattern: str) -> int:
        """Return how many of the GPU's own instructions begin with a pattern, as "HGMMA" or "LDG.E.128"."""
        return len(re.findall(rf"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?{pattern}", self.sass, flags=re.MULTILINE))

    def dots(self) -> int:
        """Return how many instructions run on the tensor cores."""
        return self.count("HGMMA") + self.count("HMMA")


def compiled(
    module: str,
    kernel: str,
    signature: Mapping[str, str],
    constants: Mapping[str, object],
    *,
    capability: int,
    warps: int = 4,
    stages: int = 3,
) -> Compiled:
    """Compile one kernel; several are compiled sooner together, by `all_compiled`."""
    return all_compiled([Request(module, kernel, signature, constants, capability, warps, stages)])[0]


def all_compiled(requests: Sequence[Request]) -> list[Compiled]:
    """Compile kernels, all in one process.

    Raises:
        AssertionError: with what the compiler says, if one of them cannot be compiled.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
        environment |= {"TRITON_CACHE_DIR": cache, "TRITON_DEFAULT_FP_FUSION": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "tests.triton_compiled"],
            input=json.dumps([asdict(request) for request in requests]),
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
            env=environment,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return [Compiled(**fields) for fields in json.loads(done.stdout)]


def _compile(request: Request) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(request.module), request.kernel)
    names = list(inspect.signature(kernel.fn).parameters)
    unknown = (set(request.signature) | set(request.constants)) ^ set(names)
    assert not unknown, f"{request.kernel}: not both among its arguments and in the request: {sorted(unknown)}"
    types = {name: request.signature.get(name, "constexpr").removesuffix(":16") for name in names}
    divided = [(place,) for place, name in enumerate(names) if request.signature.get(name, "").endswith(":16")]
    source = ASTSource(
        kernel,
        types,
        constexprs=dict(request.constants),
        attrs={place: [["tt.divisibility", 16]] for place in divided},
    )
    options = {"num_warps": request.warps, "num_stages": request.stages}
    built = triton.compile(source, target=GPUTarget("cuda", request.capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(built.asm["cubin"])
        cubin.flush()
        usage = _tool("cuobjdump", "-res-usage", cubin.name)
        sass = _tool("nvdisasm", cubin.name)
    registers = re.search(r"REG:(\d+)", usage)
    assert registers is not None, usage
    answer = Compiled(int(registers[1]), 0, int(built.metadata.shared), built.asm["ptx"], sass)
    return Compiled(**(asdict(answer) | {"spills": answer.count("LDL") + answer.count("STL")}))


def _tool(name: str, *words: str) -> str:
    """Run one of the tools that come with Triton."""
    import triton.backends.nvidia

    program = Path(str(triton.backends.nvidia.__file__)).parent / "bin" / name
    return subprocess.run([str(program), *words], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    asked = [Request(**fields) for fields in json.load(sys.stdin)]
    json.dump([asdict(_compile(request)) for request in asked], sys.stdout)
