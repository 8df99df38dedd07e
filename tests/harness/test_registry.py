import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from petl_bench import registry
from petl_bench.errors import UsageError


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Factory: a package whose module is `text` offers `point`, such as "x = module:METHOD"."""

    def make(point, text=""):
        (tmp_path / "offered_module.py").write_text(text)
        info = tmp_path / "offered-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[petl_bench.methods]\n{point}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        registry._locations.cache_clear()

    yield make
    registry._locations.cache_clear()
    registry.get.cache_clear()
    sys.modules.pop("offered_module", None)


def test_the_methods_of_the_folder_are_known_in_alphabetical_order():
    assert list(registry.names()) == sorted(registry.names())
    assert all(registry.get(name).name == name for name in registry.names())


def test_a_method_of_another_package_is_known_by_its_entry_point(fake_methods):
    del fake_methods
    assert "noisy" in registry.names()
    assert registry.get("noisy").title == "noisy"


def test_the_source_of_a_method_is_told_apart_by_its_text(fake_methods):
    del fake_methods
    of_noisy = registry.source_sha256(registry.get("noisy"))
    assert of_noisy == registry.source_sha256(registry.get("raising"))  # one file holds both
    assert of_noisy != registry.source_sha256(registry.get("lora"))


def test_the_source_of_a_method_in_one_file_is_that_files_text():
    method = registry.get("lora")
    text = Path(sys.modules[method.attach.__module__].__file__).read_bytes()
    assert registry.source_sha256(method) == hashlib.sha256(text).hexdigest()


FOLDER = {
    "__init__.py": "from .attach import METHOD\n",
    "attach.py": """
from petl_bench.method import Method, MethodConfig
from .parts.layer import WIDTH

def attach(model, ports, config):
    return model

METHOD = Method(name="mine", title="mine", source="none", config=MethodConfig, attach=attach,
                trainable_parameters=lambda dims, config: WIDTH)
""",
    "parts/__init__.py": "",
    "parts/layer.py": "WIDTH = 1\n",
    "notes.txt": "not source\n",
}


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    """Factory: the hash of a method that is a folder of the methods' package, with some changes."""

    def make(number, changes):
        home = tmp_path / str(number)
        for name, text in {**FOLDER, **changes}.items():
            (home / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
            (home / "mine" / name).write_text(text)
        package = importlib.import_module("petl_bench.methods")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(home)])
        _forget()
        sha256 = registry.source_sha256(registry.get("mine"))
        monkeypatch.undo()
        return sha256

    yield make
    monkeypatch.undo()
    _forget()


def _forget():
    registry._locations.cache_clear()
    registry.get.cache_clear()
    for name in [name for name in sys.modules if name.startswith("petl_bench.methods.mine")]:
        del sys.modules[name]


def test_the_source_of_a_method_in_a_folder_is_all_its_python_files(in_a_folder):
    before = in_a_folder(0, {})
    assert in_a_folder(1, {}) == before  # wherever the folder is
    assert in_a_folder(2, {"notes.txt": "changed\n"}) == before
    changed = [
        in_a_folder(3, {"parts/layer.py": "WIDTH = 2\n"}),
        in_a_folder(4, {"attach.py": FOLDER["attach.py"] + "# a word\n"}),
        in_a_folder(5, {"unused.py": ""}),
    ]
    assert len({before, *changed}) == 4


def test_listing_the_names_imports_no_method_of_another_package(fake_methods):
    del fake_methods
    sys.modules.pop("fake_methods", None)
    registry._locations.cache_clear()
    registry.names()
    assert "fake_methods" not in sys.modules


def test_an_entry_point_cannot_take_a_name_that_is_known(offer):
    offer("lora = offered_module:METHOD")
    with pytest.raises(UsageError, match=r"'lora'.*offered_module"):
        registry.names()


@pytest.mark.parametrize(
    ("point", "text", "told"),
    [
        ("mine = nowhere_module:METHOD", "", "ModuleNotFoundError"),
        ("mine = offered_module:METHOD", "import nowhere_module", "nowhere_module"),
        ("mine = offered_module:METHOD", "1 / 0", "ZeroDivisionError"),
        ("mine = offered_module:METHOD", "", "is not a Method of that name"),
        ("mine = offered_module:METHOD", "METHOD = 3", "is not a Method of that name"),
    ],
)
def test_a_method_that_does_not_load_is_told_by_name_and_place(offer, point, text, told):
    offer(point, text)
    with pytest.raises(UsageError, match=r"'mine'.*_module:METHOD") as refused:
        registry.get("mine")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
