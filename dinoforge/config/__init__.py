"""Recipes: typed frozen dataclasses, merged from defaults, a YAML file and ``key=value``.

OmegaConf only merges; code never sees a ``DictConfig``. All faults are reported at once, each with
its key, its place and the nearest valid key.
"""

from dinoforge.config.keys import KeyHelp, describe_keys, nearest, suggest
from dinoforge.config.load import (
    RECIPE_KINDS,
    Loaded,
    changed_keys,
    config_of,
    config_yaml,
    find_list,
    find_recipe,
    list_recipes,
    load_config,
    load_recipe,
    pick_keys,
    recipe_folder,
    to_plain,
)
from dinoforge.config.ranges import Config

__all__ = [
    "RECIPE_KINDS",
    "Config",
    "KeyHelp",
    "Loaded",
    "changed_keys",
    "config_of",
    "config_yaml",
    "describe_keys",
    "find_list",
    "find_recipe",
    "list_recipes",
    "load_config",
    "load_recipe",
    "nearest",
    "pick_keys",
    "recipe_folder",
    "suggest",
    "to_plain",
]
