"""Finds recipes: installed ones by name, others by path."""

import os
from importlib import resources
from pathlib import Path

from dinoforge.config.keys import nearest
from dinoforge.errors import UsageError

__all__ = ["RECIPE_KINDS", "find_recipe", "list_recipes", "recipe_folder"]

# Sub-command -> kind of recipe: the folder below ``configs/`` and the package that reads it.
RECIPE_KINDS = {"curate": "curation", "train": "training", "evaluate": "evaluation"}


def recipe_folder(kind: str) -> Path:
    """Folder of the recipes of ``kind``: in the wheel, else ``configs/`` of the source tree."""
    inside = Path(str(resources.files("dinoforge"))) / "_configs"
    root = inside if inside.is_dir() else inside.parent.parent / "configs"
    return root / kind


def list_recipes(kind: str) -> dict[str, Path]:
    """Return the files of the installed recipes, by name."""
    return {path.stem: path for path in sorted(recipe_folder(kind).glob("*.yaml"))}


def find_recipe(kind: str, name: str) -> Path:
    """Find a recipe by path or by name.

    Raises
    ------
    UsageError
        If there is none; suggests the nearest.
    """
    path = Path(name)
    if os.path.isfile(name):  # noqa: PTH113 - Path raises for long names
        return path
    known = list_recipes(kind)
    if name in known:
        return known[name]
    near = nearest(path.stem, known)
    hint = f" (did you mean `{near}`?)" if near else ""
    thing = "profile" if kind == "slurm" else "recipe"
    do = f"give a YAML file, or one of {', '.join(known)}"
    raise UsageError(what=f"no such {thing}{hint}", where=name, do=do)
