"""Whether all that petl-bench needs is installed: told before the first case, not by it."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version


def missing() -> str | None:
    """What to install first; None: nothing."""
    if not has("petl-bench"):
        return "pip install -e . (beside what is there: --no-deps --no-build-isolation)"
    lines = [line for line in requires("petl-bench") or () if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line)[0] for line in lines]
    lacking = [name for name in names if not has(name)]
    return f"pip install {' '.join(lacking)}" if lacking else None


def has(package: str) -> bool:
    """Whether `package` is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    told = missing()
    sys.exit(f"first: {told}" if told else 0)
