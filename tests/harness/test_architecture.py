"""What the rooms of the house may know of each other."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import petl_bench
from petl_bench import backbones, registry

PACKAGE = Path(petl_bench.__file__).parent
SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# Where a built-in backbone may be named outside petl_bench/backbones: as a default, and in help.
NAMES_A_DEFAULT = {"suite.py"} | {source for source in SOURCES if source.startswith("cli/")}


def parse(source):
    return ast.parse((PACKAGE / source).read_text(encoding="utf-8"))


def docstrings(tree):
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, owners) and node.body]
    first = [node.body[0] for node in nodes]
    return {id(s.value) for s in first if isinstance(s, ast.Expr)}


def literals(source):
    """String literals of the file, docstrings left out."""
    tree = parse(source)
    skip = docstrings(tree)
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skip
    ]


def names(source):
    """Identifiers of the file: names, attributes, arguments, imports and definitions."""
    found = set()
    for node in ast.walk(parse(source)):
        for field in ("id", "attr", "arg", "name", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                found.add(value)
    return found


def test_there_are_sources_to_check():
    assert {"cli/run.py", "case.py", "backbones/t5.py"} <= set(SOURCES)


def test_no_file_outside_backbones_names_a_model_family():
    family = re.compile("|".join(rf"(?i:\b{name}\b|{name}_)" for name in backbones.FAMILIES))
    naming = {
        source
        for source in SOURCES
        if not source.startswith("backbones/")
        and any(family.search(text) for text in [*literals(source), *names(source)])
    }
    assert naming <= NAMES_A_DEFAULT


def test_where_a_backbone_is_named_as_a_default_it_is_a_built_in_one():
    word = re.compile("|".join(rf"{family}[\w-]*" for family in backbones.FAMILIES))
    named = {
        name
        for source in NAMES_A_DEFAULT
        for text in literals(source)
        for name in word.findall(text)
    }
    assert named
    assert named <= set(backbones.names())


def test_no_file_imports_a_method():
    for source in SOURCES:
        for node in ast.walk(parse(source)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            for module in modules:
                assert not module.startswith(("petl_bench.methods", "methods")), source


def test_the_baseline_is_the_only_method_that_the_harness_names():
    naming = [
        (source, text)
        for source in SOURCES
        for text in literals(source)
        if text in registry.names()
    ]
    assert naming == [("case.py", "full")]


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "units.py"])
def test_only_units_knows_how_big_a_mib_is(source):
    def value(node):
        return node.value if isinstance(node, ast.Constant) else None

    sizes = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            sizes.append((value(node.left), value(node.right)))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
            sizes.append((2 * (value(node.left) or 0), value(node.right)))
        if isinstance(node, ast.Constant):
            assert node.value not in {2**20, 2**30, 2**40, 1024.0**2}, "a unit written out"
    assert [size for size in sizes if size[0] == 1024 or size[1] in {10, 20, 30, 40}] == []


def test_the_command_line_is_imported_without_torch_and_a_plan_opens_no_device():
    script = """
import sys

import petl_bench.cli

heavy = {"torch", "transformers", "peft", "pydantic", "pandas", "matplotlib"}
print(sorted(heavy & set(sys.modules)))

from petl_bench.suite import Suite
from petl_bench import registry

plan = Suite(methods=registry.names()).plan()
import torch

print(len(plan) == len(registry.names()), torch.cuda.is_initialized())
print(sorted({"transformers", "peft", "pandas", "matplotlib"} & set(sys.modules)))
"""
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == ["[]", "True False", "[]"]


def test_a_wheel_holds_every_package():
    """They are listed by hand, since `methods/` lies beside `petl_bench/`."""
    root = PACKAGE.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    found = {
        ".".join(path.parent.relative_to(root).parts)
        for top in ("petl_bench", "methods")
        for path in (root / top).rglob("__init__.py")
    }
    found = {re.sub(r"^methods", "petl_bench.methods", name) for name in found}
    assert found == set(project["tool"]["setuptools"]["packages"])
