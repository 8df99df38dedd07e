"""python -m petl_bench."""

from petl_bench.cli import main

main()
