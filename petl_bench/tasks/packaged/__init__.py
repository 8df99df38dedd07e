"""Data and weights that installed packages hold, so that training needs no network.

Each comes from one package of an extra, and is asked for by name. docs/offline.md has packages,
licences, sizes and splits.

places    where a package lies, and what to install where it does not
cache     folders made from a package once, for all runs of a user
english   MiniLM; film reviews; BBC news
chinese   product reviews
e5        multilingual-e5-small, from a file of its own format
easy_vqa  questions about images of shapes, and the images' features
shapes    a small model of such images and questions, pre-trained here
"""

from collections.abc import Callable
from pathlib import Path

from petl_bench.tasks.files import Row
from petl_bench.tasks.packaged import chinese, e5, easy_vqa, english, shapes
from petl_bench.tasks.vision.features import Features

BACKBONES: dict[str, Callable[[], Path]] = {
    "all-MiniLM-L6-v2": english.minilm,
    "multilingual-e5-small": e5.folder,
    "shapes-mini": shapes.folder,
}
"""Names of pretrained backbones, and what gives their folders, as `save_pretrained` writes them.

Each raises UsageError where its package is not installed.
"""

DATA: dict[str, Callable[[], dict[str, list[Row]]]] = {
    "reviews": english.reviews,
    "bbc": english.bbc,
    "reviews-zh": chinese.reviews,
    "easy-vqa": easy_vqa.rows,
}
"""Names of tasks, and what gives the rows of their train, validation and test.

Each raises UsageError where its package is not installed. The same package gives the same rows in
the same order.
"""

FEATURES: dict[str, Callable[[], Features]] = {"easy-vqa": easy_vqa.image_features}
"""Names of tasks with images, and what gives the features of these."""
