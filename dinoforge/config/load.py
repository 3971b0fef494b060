"""Find a recipe; merge it with defaults and ``key=value`` into a frozen dataclass.

All faults are reported at once.
"""

import dataclasses
import functools
import json
import operator
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from dinoforge.config.keys import describe_keys, nearest, suggest
from dinoforge.config.mismatch import REFUSALS, find_mismatch
from dinoforge.config.paths import expand_home, expand_paths
from dinoforge.config.ranges import Config, find_faults
from dinoforge.config.values import dump_yaml, read_value, read_yaml
from dinoforge.errors import Fault, UsageError, first_line

__all__ = [
    "RECIPE_KINDS",
    "Loaded",
    "changed_keys",
    "config_of",
    "config_yaml",
    "find_list",
    "find_recipe",
    "flatten",
    "list_recipes",
    "load_config",
    "load_recipe",
    "pick_keys",
    "recipe_folder",
    "to_plain",
]

# Sub-command -> kind of recipe: the folder below ``configs/`` and the package that reads it.
RECIPE_KINDS = {
    "curate": "curation",
    "train": "training",
    "evaluate": "evaluation",
    "shard": "sharding",
    "index": "index",
}

C = TypeVar("C", bound=Config)
C_co = TypeVar("C_co", bound=Config, covariant=True)

_COMMAND_LINE = "command line"
_TEXT = {"str", "str | None"}
_TEXT_MAP = "dict[str, str]"


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
    path = Path(expand_home(name))
    is_open = name.startswith("/dev/fd/") and path.exists()  # as `<(...)` of the shell names a pipe
    if is_open or os.path.isfile(path):  # noqa: PTH113 - Path raises for long names
        return path
    known = list_recipes(kind)
    if name in known:
        return known[name]
    hint = suggest(path.stem, known)
    thing = "profile" if kind == "slurm" else "recipe"
    do = f"give a YAML file, or one of {', '.join(known)}"
    raise UsageError(what=f"no such {thing}{hint}", where=name, do=do)


def find_list(kind: str, name: str) -> Path:
    """Find a list of images: a file, or if there is none, one among the installed recipes."""
    installed = recipe_folder(kind) / name
    return installed if installed.is_file() and not Path(name).exists() else Path(name)


@dataclass(frozen=True)
class Loaded(Generic[C_co]):
    """A resolved config and the origin of each value that is not a default."""

    config: C_co
    origins: dict[str, str]  # dotted key -> "recipe" or "command line"


@dataclass(frozen=True)
class _Leaf:
    key: str
    value: Any
    where: str  # FILE:LINE of a recipe, or "command line"


def load_config(cls: type[C], recipe: Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Resolve a recipe and ``key=value`` overrides into ``cls``; see `load_recipe`."""
    return load_recipe(cls, recipe, overrides).config


def load_recipe(
    cls: type[C],
    recipe: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    shown_prefix: str = "",
) -> Loaded[C]:
    """Resolve defaults <- recipe <- overrides.

    Parameters
    ----------
    cls : type
        Frozen dataclass. Values are checked against the ranges of its keys and by the methods
        ``faults(at)`` of it and of its sections.
    recipe : Path, optional
        YAML file with the keys that differ from the defaults.
    overrides : sequence of str
        ``key=value``; values of text keys are taken as typed.
    shown_prefix : str
        Prefix of the keys in messages, as the user types them: ``training.``.

    Raises
    ------
    UsageError
        Unknown keys (with the nearest valid one), wrong types, missing values, values out of
        range, broken rules: all of them, one line each.
    """
    loading = _Loading(describe_keys(cls), shown_prefix)
    leaves = [*loading.read_recipe(recipe), *loading.read_overrides(overrides)]
    merged: Any = OmegaConf.structured(cls)
    origins: dict[str, str] = {}
    for leaf in leaves:
        fault = loading.check_value(leaf)
        if fault is None:
            try:
                merged = OmegaConf.merge(merged, loading.nest(leaf))
                origins[leaf.key] = _COMMAND_LINE if leaf.where == _COMMAND_LINE else "recipe"
            except REFUSALS as error:
                fault = loading.explain(error, leaf, cls)
        if fault is not None:
            loading.faults.append(fault)
    source = str(recipe) if recipe is not None else _COMMAND_LINE
    for missing in sorted(OmegaConf.missing_keys(merged)):
        key = shown_prefix + missing
        if not any(f"`{key}" in fault.what for fault in loading.faults):
            loading.faults.append(Fault(f"`{key}` is required", source, f"add {key}=VALUE"))
    if not loading.faults:
        config = expand_paths(typing.cast("C", OmegaConf.to_object(merged)))
        given = {leaf.key: leaf.where for leaf in leaves}
        for fault in dict.fromkeys(find_faults(config)):
            loading.faults.append(_locate(fault, given, source, shown_prefix))
    if loading.faults:
        raise UsageError(faults=loading.faults)
    return Loaded(config, origins)


def config_of(cls: type[C], plain: Mapping[str, Any]) -> C:
    """Make a config from the result of `to_plain`, on another machine or another day."""
    merged = OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.create(dict(plain)))
    return typing.cast("C", OmegaConf.to_object(merged))


def to_plain(config: Config) -> dict[str, Any]:
    """Convert a config to what JSON holds, every default included."""
    return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(config))))


def config_yaml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """Format the resolved recipe as YAML; comments name the origins of values."""
    text = dump_yaml(to_plain(config))
    lines = text.splitlines()
    for key, number in _key_lines(yaml.compose(text)):
        if origins and key in origins:
            lines[number - 1] += f"  # {origins[key]}"
    return "\n".join(lines) + "\n"


def pick_keys(plain: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Pick the values of dotted ``keys``, whole sections included, from a plain config."""
    return {key: functools.reduce(operator.getitem, key.split("."), plain) for key in keys}


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List the dotted keys whose values differ between two plain configs."""
    flat_old, flat_new = dict(flatten(old)), dict(flatten(new))
    return [key for key in flat_new | flat_old if flat_old.get(key) != flat_new.get(key)]


def flatten(
    node: Mapping[str, Any], prefix: str = "", is_leaf: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; a mapping whose key ``is_leaf`` is one value."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not is_leaf(key):
            yield from flatten(value, f"{key}.", is_leaf)
        else:
            yield key, value


class _Loading:
    """Reads values, and collects what is wrong with them."""

    def __init__(self, keys: Mapping[str, Any], prefix: str) -> None:
        self.keys, self.prefix = keys, prefix
        self.faults: list[Fault] = []

    def read_recipe(self, recipe: Path | None) -> Iterator[_Leaf]:
        """Read the keys of a recipe, with their lines."""
        if recipe is None:
            return
        try:
            text = Path(recipe).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UsageError(
                what=f"recipe unreadable: {reason}",
                where=str(recipe),
                do="give a YAML file, or list the installed recipes with --list",
            ) from error
        try:
            tree = yaml.compose(text, Loader=yaml.SafeLoader)
            values = read_yaml(text) if tree is not None else {}
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or first_line(error)
            what = f"recipe is not valid YAML: {problem}"
            self.faults.append(Fault(what, f"{recipe}{line}", "fix the syntax"))
            return
        if not isinstance(values, dict):
            do = "write `key: value` lines"
            self.faults.append(Fault("recipe is not a mapping", str(recipe), do))
            return
        lines = dict(_key_lines(tree))
        for key, value in flatten(values, is_leaf=self._is_text_map):
            yield _Leaf(key, value, f"{recipe}:{lines.get(key, 1)}")

    def read_overrides(self, overrides: Sequence[str]) -> Iterator[_Leaf]:
        """Read ``key=value`` words; ``model={width: 384, depth: 12}`` is two keys."""
        for item in overrides:
            key, equals, text = item.partition("=")
            if not equals or not key:
                what, do = f"`{self.prefix}{item}` is not key=value", f"{self.prefix}seed=1"
                self.faults.append(Fault(what, _COMMAND_LINE, f"write e.g. {do}, no spaces"))
                continue
            value: Any = text
            if not self._is_text(key):
                value = read_value(text)
            elif text in {"null", "None"} and self._type(key) == "str | None":
                value = None
            for inner, part in flatten({key: value}, is_leaf=self._is_text_map):
                yield _Leaf(inner, part, _COMMAND_LINE)

    def nest(self, leaf: _Leaf) -> Any:
        """Write a value with the sections around it; below a map of texts, the rest is one key."""
        above = self._map_around(leaf.key)
        below = leaf.key.removeprefix(f"{above}.")
        parts = [*above.split("."), below] if above else leaf.key.split(".")
        return functools.reduce(lambda inner, part: {part: inner}, reversed(parts), leaf.value)

    def _is_text_map(self, key: str) -> bool:
        """Return whether a key is a map of texts: one value, as its keys may have dots."""
        return self._type(key) == _TEXT_MAP

    def _map_around(self, key: str) -> str:
        """Return the map of texts that a key is inside; "" for none."""
        maps = (name for name in self.keys if self._is_text_map(name))
        return next((name for name in maps if key.startswith(f"{name}.")), "")

    def _is_text(self, key: str) -> bool:
        return self._type(key) in _TEXT or bool(self._map_around(key))

    def _type(self, key: str) -> str:
        return self.keys[key].type if key in self.keys else ""

    def check_value(self, leaf: _Leaf) -> Fault | None:
        """Refuse what OmegaConf would fill in, and text that YAML has changed."""
        shown = f"`{self.prefix}{leaf.key}`"
        if "${" in str(leaf.value):
            what = f"{shown} got {leaf.value!r}, and ${{...}} is not filled in"
            return Fault(what, leaf.where, "write the value itself")
        for key, changed in self._changed_text(leaf.key, leaf.value):
            what = f"`{self.prefix}{key}` needs text, YAML read {changed!r}"
            return Fault(what, leaf.where, "put it in quotes")
        return None

    def _changed_text(self, key: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Find values of text keys that are none: `no` becomes False, `12:00:00` 43200."""
        if self._is_text(key) and not isinstance(value, str | None):
            yield key, value
        if self._is_text_map(key) and isinstance(value, Mapping):
            parts = (*value, *value.values())
            yield from ((key, part) for part in parts if not isinstance(part, str))
        for part in value if isinstance(value, list) else ():
            if isinstance(part, dict):
                for name, inner in part.items():
                    yield from self._changed_text(f"{key}[].{name}", inner)
            elif self._type(key) == "list[str]" and not isinstance(part, str):
                yield key, part

    def explain(self, error: Exception, leaf: _Leaf, cls: type[Config]) -> Fault:
        """Describe an unknown key or a value of the wrong type."""
        if isinstance(error, ConfigKeyError):
            return self._explain_unknown(str(error.full_key or ""), leaf)
        mismatch = find_mismatch(self.nest(leaf), cls)
        if mismatch is None:  # it does not suit what another value has made of the section
            return Fault(f"`{self.prefix}{leaf.key}`: {first_line(error)}", leaf.where, "remove it")
        key = re.sub(r"\[\d+\]", "[]", mismatch.key).removesuffix("[]")
        while not self._has_help(key):  # a name of the user's own
            key = key.rpartition(".")[0]
        what = f"`{self.prefix}{mismatch.key}` {mismatch}"
        return Fault(what, leaf.where, f"see `dinoforge explain {key}`")

    def _has_help(self, section: str) -> bool:
        return any(re.match(rf"{re.escape(section)}(\.|\[|$)", name) for name in self.keys)

    def _explain_unknown(self, full_key: str, leaf: _Leaf) -> Fault:
        key = leaf.key
        if isinstance(leaf.value, list) and key in self.keys:
            key = f"{key}[].{full_key.rsplit('.', 1)[-1]}"
        near = nearest(key, self.keys)
        section = (near or key).split(".", maxsplit=1)[0].removesuffix("[]")
        head, brackets, tail = (near or "").partition("[].")
        if brackets and key.startswith(f"{head}."):
            # The keys of a dictionary of sections are the user's own names.
            near = f"{head}.{key.removeprefix(f'{head}.').partition('.')[0]}.{tail}"
        hint = f" (did you mean `{self.prefix}{near}`?)" if near else ""
        do = f"see `dinoforge explain {section}`" if self._has_help(section) else "remove it"
        return Fault(f"unknown key `{self.prefix}{key}`{hint}", leaf.where, do)


def _key_lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            key = f"{prefix}{name.value}"
            yield key, name.start_mark.line + 1
            yield from _key_lines(value, f"{key}.")


def _locate(fault: Fault, given: Mapping[str, str], source: str, prefix: str) -> Fault:
    """Replace ``recipe`` by the line that gave the key; write the key as the user types it."""
    match = re.match(r"`([^`]+)`", fault.what)
    if match is None:
        return fault if fault.where != "recipe" else dataclasses.replace(fault, where=source)
    where = fault.where if fault.where != "recipe" else _place_of(match[1], given) or source
    return Fault(f"`{prefix}{fault.what[1:]}", where, fault.do)


def _place_of(key: str, given: Mapping[str, str]) -> str | None:
    """Find where a key was given: itself, the list or section around it, or a key inside it."""
    key = re.sub(r"\[\d*\]", "", key)
    inside = [where for name, where in given.items() if name.startswith(f"{key}.")]
    while key:
        if key in given:
            return given[key]
        key = key.rpartition(".")[0]
    return inside[-1] if inside else None
