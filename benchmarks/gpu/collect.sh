#!/bin/sh
# collect.py of this folder, run by $PYTHON (python3): see README.md.
exec "${PYTHON:-python3}" -P "$(dirname "$0")/collect.py" "$@"
