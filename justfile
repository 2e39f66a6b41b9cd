# What CI runs. `just` alone lists these.

[private]
default:
    @just --list

# What CI runs: format, lint, types, import contract, generated documentation, tests in their short form
check: lint types imports docs-check (test '-m "not slow"')

# Format and lint
lint:
    ruff format --check .
    ruff check .

# Types, strictly
types:
    mypy

# Imports only point down
imports:
    lint-imports --no-logo

# The generated parts of the README say what the program says
docs-check:
    python -m cogapp --check README.md

# Generate them anew
docs:
    python -m cogapp -r README.md

# All tests, a process a core with one thread each: more would wait for each other
test *words:
    OMP_NUM_THREADS=1 python -m pytest -n auto --dist worksteal {{ words }}

# The kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer: a minute, needs gcc with its libasan
sanitize *words:
    .ci/sanitize {{ words }}

# Source archive and Linux wheel, in dist/; first: pip install --group wheels
wheel:
    rm -rf dist
    KBNET_REQUIRE_EXTENSION=1 python -m build
    auditwheel repair --wheel-dir dist/manylinux dist/*.whl

# Mend what can be mended by itself
fix:
    ruff check --fix .
    ruff format .
