"""Modules say what they are for, and stay small: few in a folder, short functions, no cycle."""

import ast
import graphlib
import importlib
import importlib.util
import inspect
import pkgutil
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import dinoforge

ROOMS_ABOVE = {"cli", "curation", "evaluation", "slurm", "training"}
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(dinoforge.__path__, "dinoforge.")
    if not info.name.endswith("__main__")
)
FILES = {name: Path(importlib.util.find_spec(name).origin) for name in ["dinoforge", *MODULES]}


def public(module):
    """Functions and classes that a module defines for others."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", ["dinoforge", *MODULES])
def test_a_module_states_what_it_is_for_and_lists_names_that_it_has(name):
    module = importlib.import_module(name)
    assert module.__doc__, "no docstring"
    listed = getattr(module, "__all__", None)
    if listed is None:
        assert not public(module), "no __all__"
        return
    assert len(listed) == len(set(listed))
    for word in listed:
        assert hasattr(module, word), word
        assert not word.startswith("_") or word == "__version__"


@pytest.mark.parametrize(
    "name", [name for name in MODULES if "neighbors" in name or "pages" in name]
)
def test_functions_and_classes_of_a_room_are_listed_or_start_with_an_underscore(name):
    module = importlib.import_module(name)
    assert public(module) <= set(getattr(module, "__all__", ()))


def test_the_import_contract_of_the_ground_floor_names_all_of_it(root):
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    (listed,) = (
        set(contract["source_modules"])
        for contract in contracts["contracts"]
        if contract["name"] == "the ground floor knows no stage"
    )
    rooms = {f"dinoforge.{info.name}" for info in pkgutil.iter_modules(dinoforge.__path__)}
    assert listed == rooms - {"dinoforge.__main__"} - {f"dinoforge.{room}" for room in ROOMS_ABOVE}


def imported(nodes):
    """Modules of this project that statements import when their module is imported."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            # A package first runs its own `__init__`.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            yield from (name for name in names if name in FILES)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imported(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported(ast.iter_child_nodes(node))


def test_a_folder_holds_at_most_16_modules():
    sizes = Counter(file.parent for file in FILES.values() if file.stem != "__init__")
    assert {str(folder): size for folder, size in sizes.items() if size > 16} == {}


def test_no_modules_import_each_other_in_a_cycle():
    graph = {name: set(imported(ast.parse(FILES[name].read_text()).body)) for name in FILES}
    # Raises CycleError, with the cycle.
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_a_function_has_at_most_60_lines():
    long = {
        f"{name}.{node.name}": length
        for name, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := node.end_lineno - node.lineno + 1) > 60
    }
    assert long == {}
