# Each recipe is lines that can be pasted without just.

setup:
    python3 -m venv --upgrade-deps .venv
    .venv/bin/pip install -c constraints.txt -e . --group dev

check:
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    .venv/bin/codespell

fix:
    .venv/bin/ruff check --fix
    .venv/bin/ruff format

test *args:
    .venv/bin/pytest {{args}}

# The figures and tables that README shows.
report:
    .venv/bin/petl-bench run --methods full,adapter,lora,bitfit,prompt,lst --profiler simulated --out reports/t5-base

# On a machine with a CUDA device.
gpu:
    .venv/bin/pytest -m gpu

# Our own speed, not a method's.
bench:
    .venv/bin/pytest benchmarks --benchmark-only

build:
    .venv/bin/python -m build

ci:
    bash .ci/run
