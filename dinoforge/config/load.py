"""Merge defaults, recipe and ``key=value`` into a frozen dataclass, finding all faults at once."""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from dinoforge.config.keys import describe_keys, nearest
from dinoforge.config.ranges import find_faults
from dinoforge.errors import Fault, UsageError

__all__ = [
    "Loaded",
    "changed_keys",
    "config_of",
    "config_yaml",
    "load_config",
    "load_recipe",
    "pick_keys",
    "to_plain",
]

C = TypeVar("C")

# The place in the faults of a rule, which cannot know where its key was given.
_RECIPE = "recipe"


@dataclass(frozen=True)
class Loaded(Generic[C]):
    """A resolved config and where each value that is not a default came from."""

    config: C
    origins: dict[str, str]  # dotted key -> "recipe" or "command line"


@dataclass(frozen=True)
class _Leaf:
    key: str
    value: Any
    where: str
    origin: str
    prefix: str  # of the key as the user writes it

    @property
    def shown(self) -> str:
        """The key as the user writes it."""
        return self.prefix + self.key


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
        Frozen dataclass; it and the dataclasses inside may have ``faults(at)`` that yields
        `Fault`. Its ``what`` begins with the key in backticks; a ``where`` that says ``recipe``
        becomes the line or the command line that gave the key.
    recipe : Path, optional
        YAML file that holds what differs from the defaults.
    overrides : sequence of str
        ``key=value``; values of text keys are taken as they are typed.
    shown_prefix : str
        What the user writes before the keys of this recipe, as in ``training.``.

    Raises
    ------
    UsageError
        Unknown keys (with the nearest valid one), wrong types, missing values, broken rules:
        all of them, one line each.
    """
    faults: list[Fault] = []
    keys = describe_keys(cls)
    leaves = [
        *_recipe_leaves(recipe, faults, shown_prefix),
        *_override_leaves(overrides, keys, faults, shown_prefix),
    ]
    merged: Any = OmegaConf.structured(cls)
    origins: dict[str, str] = {}
    for leaf in leaves:
        fault = _interpolation_fault(leaf) or _text_fault(leaf, keys)
        if fault is None:
            try:
                merged = OmegaConf.merge(merged, _nest(leaf.key, leaf.value))
                origins[leaf.key] = leaf.origin
            except OmegaConfBaseException as error:
                fault = _as_fault(error, leaf, keys)
        if fault is not None:
            faults.append(fault)
    source = str(recipe) if recipe is not None else "command line"
    for missing in sorted(OmegaConf.missing_keys(merged)):
        shown = shown_prefix + missing
        if not any(f"`{shown}" in fault.what for fault in faults):
            faults.append(Fault(f"`{shown}` is required", source, f"add {shown}=VALUE"))
    if not faults:
        config = typing.cast("C", OmegaConf.to_object(merged))
        given = {leaf.key: leaf.where for leaf in leaves}
        faults.extend(
            _as_written(fault, given, source, shown_prefix)
            for fault in dict.fromkeys(find_faults(config))
        )
    if faults:
        raise UsageError(faults=faults)
    return Loaded(config, origins)


def config_of(cls: type[C], plain: Mapping[str, Any]) -> C:
    """Make a config from what `to_plain` gave, on another machine or on another day."""
    merged = OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.create(dict(plain)))
    return typing.cast("C", OmegaConf.to_object(merged))


def to_plain(config: Any) -> dict[str, Any]:
    """Dataclass to JSON-able dictionaries, every default written out."""
    return typing.cast("dict[str, Any]", _plain(config))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return value


def config_yaml(config: Any, origins: Mapping[str, str] | None = None) -> str:
    """Write the resolved recipe as YAML; a comment names the origin of what is not a default."""
    lines: list[str] = []
    _emit(to_plain(config), "", 0, origins or {}, lines)
    return "\n".join(lines) + "\n"


def _emit(
    node: dict[str, Any], prefix: str, depth: int, origins: Mapping[str, str], lines: list[str]
) -> None:
    for name, value in node.items():
        key = f"{prefix}{name}"
        pad = "  " * depth
        if isinstance(value, dict) and value:
            lines.append(f"{pad}{name}:")
            _emit(value, f"{key}.", depth + 1, origins, lines)
            continue
        # default_flow_style keeps a list of mappings readable on its own indented lines
        text = yaml.safe_dump({name: value}, sort_keys=False, width=1000).rstrip("\n").split("\n")
        note = f"  # {origins[key]}" if key in origins else ""
        text[0] += note
        lines.extend(pad + line for line in text)


def pick_keys(plain: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Take the sub-trees of a plain config under dotted ``keys`` (what a stage reads)."""
    picked: dict[str, Any] = {}
    for key in keys:
        node: Any = plain
        for part in key.split("."):
            node = node[part]
        picked[key] = node
    return picked


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two plain configs."""
    flat_old, flat_new = dict(_flatten(old)), dict(_flatten(new))
    names = [*flat_new, *(key for key in flat_old if key not in flat_new)]
    return [key for key in names if flat_old.get(key) != flat_new.get(key)]


def _flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast("dict[str, Any]", value)


def _recipe_leaves(recipe: Path | None, faults: list[Fault], prefix: str) -> list[_Leaf]:
    if recipe is None:
        return []
    try:
        text = Path(recipe).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UsageError(
            what=f"recipe unreadable: {reason}",
            where=str(recipe),
            do="name a YAML file, or see the recipes there are with --list",
        ) from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else {}
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        faults.append(Fault(f"recipe is not valid YAML: {problem}", f"{recipe}{line}", "mend it"))
        return []
    if tree is None:
        return []
    if not isinstance(values, dict):
        faults.append(Fault("recipe is not a mapping", str(recipe), "write `key: value` lines"))
        return []
    lines = dict(_key_lines(tree))
    return [
        _Leaf(key, value, f"{recipe}:{lines.get(key, 1)}", "recipe", prefix)
        for key, value in _flatten(typing.cast("dict[str, Any]", values))
    ]


def _key_lines(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            key = f"{prefix}{name.value}"
            yield key, name.start_mark.line + 1
            yield from _key_lines(value, f"{key}.")


def _override_leaves(
    overrides: Sequence[str], keys: Mapping[str, Any], faults: list[Fault], prefix: str
) -> Iterator[_Leaf]:
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            faults.append(
                Fault(
                    f"`{prefix}{item}` is not key=value",
                    "command line",
                    f"write e.g. {prefix}seed=1, no spaces",
                )
            )
            continue
        value: Any = text
        if key not in keys or keys[key].type not in {"str", "str | None"}:
            try:
                value = OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]  # type: ignore[index, call-overload]
            except (yaml.YAMLError, OmegaConfBaseException):
                value = text
        elif text in {"null", "None"} and keys[key].type == "str | None":
            value = None
        # A whole section at once, `model={width: 384, depth: 12}`, is its keys.
        for inner, part in _flatten({key: value}):
            yield _Leaf(inner, part, "command line", "command line", prefix)


def _interpolation_fault(leaf: _Leaf) -> Fault | None:
    """OmegaConf would put other keys or the environment in: a recipe says what it means."""
    if not _has_interpolation(leaf.value):
        return None
    return Fault(
        f"`{leaf.shown}` got {leaf.value!r}, and ${{...}} is not filled in",
        leaf.where,
        "write the value itself",
    )


def _has_interpolation(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_interpolation(part) for part in value.values())
    if isinstance(value, list):
        return any(_has_interpolation(part) for part in value)
    return isinstance(value, str) and "${" in value


def _text_fault(leaf: _Leaf, keys: Mapping[str, Any]) -> Fault | None:
    """YAML turns ``no`` into False and ``12:00:00`` into 43200 even where text is meant."""
    known = keys.get(leaf.key)
    is_text = known is not None and known.type in {"str", "str | None"}
    if is_text and not isinstance(leaf.value, str) and leaf.value is not None:
        return Fault(
            f"`{leaf.shown}` needs text, YAML read {leaf.value!r}", leaf.where, "put it in quotes"
        )
    return None


def _named(near: str, key: str) -> str:
    """Put the name that a person gave an entry in place of ``[]``."""
    head, mark, tail = near.partition("[].")
    if not mark or not key.startswith(f"{head}."):
        return near
    return f"{head}.{key.removeprefix(f'{head}.').partition('.')[0]}.{tail}"


def _as_fault(error: OmegaConfBaseException, leaf: _Leaf, keys: Mapping[str, Any]) -> Fault:
    if isinstance(error, ConfigKeyError):
        inside = str(error.full_key or "").rsplit(".", 1)[-1]
        key = leaf.key
        if isinstance(leaf.value, list) and leaf.key in keys:
            key = f"{leaf.key}[].{inside}"
        near = nearest(key, keys)
        near = near and _named(near, key)
        hint = f" (did you mean `{leaf.prefix}{near}`?)" if near else ""
        section = (near or key).split(".", maxsplit=1)[0].removesuffix("[]")
        is_section = any(name.split(".")[0].removesuffix("[]") == section for name in keys)
        do = f"see `dinoforge explain {section}`" if is_section else "remove it"
        return Fault(f"unknown key `{leaf.prefix}{key}`{hint}", leaf.where, do)
    known = keys.get(leaf.key)
    wanted = f", need {known.type}" if known is not None else ""
    reason = str(error).splitlines()[0]
    return Fault(
        f"`{leaf.shown}` got {leaf.value!r}{wanted}" if wanted else f"`{leaf.shown}`: {reason}",
        leaf.where,
        f"see `dinoforge explain {leaf.key}`",
    )


def _as_written(fault: Fault, given: Mapping[str, str], source: str, prefix: str) -> Fault:
    """Put the place that gave the key into the fault of a rule, and the key as it is written."""
    found = re.match(r"`([^`]+)`", fault.what)
    what = f"`{prefix}{fault.what[1:]}" if found is not None else fault.what
    where = fault.where
    if where == _RECIPE:
        where = (_place_of(found[1], given) if found is not None else None) or source
    return Fault(what, where, fault.do)


def _place_of(key: str, given: Mapping[str, str]) -> str | None:
    """Where a key was given: itself, or the list or section around it, or a key inside it."""
    key = re.sub(r"\[\d*\]", "", key)
    inside = [where for name, where in given.items() if name.startswith(f"{key}.")]
    while key:
        if key in given:
            return given[key]
        key = key.rpartition(".")[0]
    return inside[-1] if inside else None
