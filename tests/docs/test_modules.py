"""Every module says what it is for and which of its names are for others."""

import importlib
import inspect
import pkgutil
import tomllib

import pytest

import dinoforge

ROOMS_ABOVE = {"cli", "curation", "evaluation", "slurm", "training"}
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(dinoforge.__path__, "dinoforge.")
    if not info.name.endswith("__main__")
)


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
def test_a_module_says_what_it_is_for_and_lists_names_that_it_has(name):
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
    assert public(module) <= set(module.__all__)


def test_the_import_contract_of_the_ground_floor_names_all_of_it(root):
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    (listed,) = (
        set(contract["source_modules"])
        for contract in contracts["contracts"]
        if contract["type"] == "forbidden"
    )
    rooms = {f"dinoforge.{info.name}" for info in pkgutil.iter_modules(dinoforge.__path__)}
    assert listed == rooms - {"dinoforge.__main__"} - {f"dinoforge.{room}" for room in ROOMS_ABOVE}
