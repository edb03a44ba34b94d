"""Public names are importable, documented and few; errors name arguments, not options."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import kdkeras

PACKAGE = Path(kdkeras.__file__).parent
MODULES = ["", *(name for name in kdkeras.__all__ if (PACKAGE / name).is_dir())]
MODULES += [name for name in kdkeras.__all__ if (PACKAGE / f"{name}.py").is_file()]


def public_objects(module):
    name = f"kdkeras.{module}" if module else "kdkeras"
    found = importlib.import_module(name)
    return {public: getattr(found, public) for public in found.__all__}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_documented(module):
    undocumented = [
        name
        for name, value in public_objects(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value)
    ]
    assert undocumented == []


@pytest.mark.parametrize("module", MODULES)
def test_every_argument_of_a_public_function_is_documented(module):
    missing = []
    for name, value in public_objects(module).items():
        if not inspect.isfunction(value):
            continue
        text = inspect.getdoc(value)
        for argument in inspect.signature(value).parameters.values():
            if not re.search(rf"^\s*\*{{0,2}}{argument.name}:", text, re.MULTILINE):
                missing.append(f"{name}({argument.name})")
    assert missing == []


def test_public_names_fit_two_screens():
    assert sum(len(public_objects(module)) for module in MODULES) <= 180


def messages(path):
    """The strings of every error that a module raises."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("Error"):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield node.lineno, part.value


def test_errors_of_the_library_name_no_command_line_options():
    named = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in PACKAGE.rglob("*.py")
        if "cli" not in path.parts and path.name != "__main__.py"
        for line, text in messages(path)
        if re.search(r"(?<![\w-])--[a-z]", text)
    ]
    assert named == []
