"""Imports point one way, and importing the package is fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kdkeras

PACKAGE = Path(kdkeras.__file__).parent

# From the stage nearest the tensors to the stage nearest the user.
LAYERS = [
    {"errors", "files", "progress", "replicas", "strings", "vectors"},
    {"recipe"},
    {"schedules"},
    {"layers", "optimizers"},
    {"losses"},
    {"data"},
    {"teachers"},
    {"students"},
    {"compression"},
    {"distillation"},
    {"growth", "distribution"},
    {"evaluation"},
    {"training"},
    {"export"},
    {"loading"},
    {"cli", "demo", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """Yields each kdkeras module that a file imports, and the line.

    Imports inside functions and under `TYPE_CHECKING` count as well.
    """
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            # `import kdkeras` and `kdkeras.__version__` load no other module.
            if name.startswith("kdkeras.") and name != "kdkeras.__version__":
                yield home_of(name), node.lineno


def home_of(name: str) -> str:
    """Returns the module that defines `name`, the full name of a module or of an object."""
    root, _, rest = name.partition(".")
    name = f"{kdkeras._HOMES[rest]}.{rest}" if rest in kdkeras._HOMES else name
    path = PACKAGE.parent.joinpath(*name.split("."))
    is_module = path.with_suffix(".py").exists() or path.is_dir()
    return name if is_module else name.rpartition(".")[0]


def imported_parts(path: Path) -> Iterator[tuple[str, int]]:
    """Yields each part of kdkeras that a file imports, and the line."""
    for module, line in imported_modules(path):
        yield module.split(".")[1], line


def sources() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_part_has_a_layer():
    assert {part_of(path) for path in sources()} == set(RANK)


def test_imports_point_one_way():
    upward = [
        f"{path.relative_to(PACKAGE)}:{line} imports kdkeras.{part}"
        for path in sources()
        for part, line in imported_parts(path)
        if RANK[part] > RANK[part_of(path)]
    ]
    assert upward == []


def test_layers_of_one_rank_do_not_import_each_other():
    sideways = [
        f"{path.relative_to(PACKAGE)}:{line} imports kdkeras.{part}"
        for path in sources()
        if part_of(path) not in LAYERS[-1]
        for part, line in imported_parts(path)
        if RANK[part] == RANK[part_of(path)]
        and part != part_of(path)
        # Every part may import errors.
        and part != "errors"
    ]
    assert sideways == []


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_modules_have_no_import_cycle():
    graph = {
        module_of(path): {module for module, _ in imported_modules(path)} for path in sources()
    }
    assert sum(map(len, graph.values())) > 300
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"These modules import each other: {' <- '.join(error.args[1])}")


def test_importing_kdkeras_loads_nothing_heavy():
    heavy = ["tensorflow", "keras", "numpy", "matplotlib", "rich", "kdkeras.teachers"]
    code = f"import sys, kdkeras; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_public_names_are_few_and_all_exist():
    assert len(kdkeras.__all__) <= 30
    for name in kdkeras.__all__:
        assert getattr(kdkeras, name) is not None


def test_another_backend_is_refused_saying_what_to_set():
    output = subprocess.run(
        [sys.executable, "-c", "import kdkeras"],
        env={"KERAS_BACKEND": "jax", "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
    )
    last = output.stderr.strip().splitlines()[-1]
    assert output.returncode == 1
    assert "KERAS_BACKEND=jax" in last and "Set KERAS_BACKEND=tensorflow" in last
