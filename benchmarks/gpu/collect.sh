#!/usr/bin/env bash
# Measure SUITEs (all of them if none is named) on this machine's GPU, one after the other, into
# $REFERENCE/CARD/SUITE/records.jsonl. Killed half way, the same command goes on where it left off.
# usage: benchmarks/gpu/collect.sh CARD [SUITE...]
set -euo pipefail
cd "$(dirname "$0")/../.."

card=${1:?usage: benchmarks/gpu/collect.sh CARD [SUITE...]}
shift
python=${PYTHON:-python3}
reference=${REFERENCE:-benchmarks/reference}
if [ $# = 0 ]; then
  for file in benchmarks/gpu/*.toml; do
    set -- "$@" "$(basename "$file" .toml)"
  done
fi
for suite in "$@"; do
  [ -f "benchmarks/gpu/$suite.toml" ] || { echo "no suite benchmarks/gpu/$suite.toml" >&2; exit 2; }
done

# What is not installed comes to light here, and not in the first case.
"$python" - <<'EOF'
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None

if not installed("petl-bench"):
    sys.exit("first: pip install --no-deps --no-build-isolation -e .")
names = [re.match(r"[\w.-]+", line)[0] for line in requires("petl-bench") if "extra ==" not in line]
if missing := [name for name in names if not installed(name)]:
    sys.exit(f"first: pip install {' '.join(missing)}")
EOF

failed=0
for suite in "$@"; do
  folder=$reference/$card/$suite
  echo "== $suite"
  code=0
  "$python" -m petl_bench run --suite "benchmarks/gpu/$suite.toml" --profiler cuda --out "$folder" \
    || code=$?
  case $code in
    0) ;;
    1) failed=1 ;;  # a case ended in an error, which its record tells; the next suite may not
    *) exit "$code" ;;
  esac
  # Made from the records, and at any time again: petl-bench show, petl-bench report.
  rm -rf "$folder"/{figures,report.html,table.csv,table.md}
done
exit $failed
