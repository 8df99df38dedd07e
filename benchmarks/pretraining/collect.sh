#!/bin/sh
# collect.py of this folder, run by $PYTHON (python3): see README.md.
python=${PYTHON:-python3}
here=$(dirname "$0")
"$python" -P "$here/../gpu/installed.py" && exec "$python" -P "$here/collect.py" "$@"
