"""What keys a recipe has: type, default, range, and the comment beside the field in the code."""

import ast
import dataclasses
import difflib
import functools
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dinoforge.config.ranges import describe_range

__all__ = ["KeyHelp", "describe_keys", "describe_type", "nearest", "suggest"]

_SHOWN = 4  # keys of a section in the name of its type


@dataclass(frozen=True)
class KeyHelp:
    """Everything known about one recipe key."""

    key: str  # dotted, e.g. "optimizer.lr"; list elements as "sources[].role"
    type: str
    default: str
    range: str  # of its values, e.g. "1 or more"; "" for all
    meaning: str  # the comment beside the field: meaning, unit, source
    where: str  # dataclass that owns the key


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Find the most similar of ``words``; None when nothing is close."""
    choices = list(words)
    for match in difflib.get_close_matches(word, choices, n=1, cutoff=0.6):
        return match
    # A key typed without its section: compare last parts.
    # Those of list entries (`x[].y`) come last: they cannot be typed without their list.
    ordered = sorted(choices, key=lambda choice: "[]" not in choice)
    last = {choice.rsplit(".", 1)[-1]: choice for choice in ordered}
    for match in difflib.get_close_matches(word.rsplit(".", 1)[-1], last, n=1, cutoff=0.75):
        return last[match]
    return None


def suggest(word: str, words: Iterable[str]) -> str:
    """Return what follows an unknown word in an error: the nearest one in brackets, or nothing."""
    near = nearest(word, words)
    return f" (did you mean `{near}`?)" if near else ""


def describe_keys(cls: type, prefix: str = "") -> dict[str, KeyHelp]:
    """Describe every leaf key of a config dataclass, in declaration order."""
    keys: dict[str, KeyHelp] = {}
    types = typing.get_type_hints(cls)
    ranges = typing.get_type_hints(cls, include_extras=True)
    comments = _field_comments(cls)
    for field in dataclasses.fields(cls):
        hint, key = types[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            keys |= describe_keys(typing.cast("type", hint), f"{key}.")
            continue
        keys[key] = KeyHelp(
            key=key,
            type=describe_type(hint),
            default=_default(field),
            range=describe_range(ranges[field.name]),
            meaning=comments.get(field.name, ""),
            where=f"{cls.__module__}.{cls.__qualname__}",
        )
        for part in typing.get_args(hint):
            if dataclasses.is_dataclass(part):
                keys |= describe_keys(typing.cast("type", part), f"{key}[].")
    return keys


def describe_type(hint: Any) -> str:
    """Name a type as people write it: ``int``, ``a | b``, ``list[str]``, ``{role, paths, ...}``."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in parts)
    if origin in {typing.Union, types.UnionType}:
        return " | ".join("None" if part is type(None) else describe_type(part) for part in parts)
    if dataclasses.is_dataclass(hint):
        names = [field.name for field in dataclasses.fields(hint)]
        return f"{{{', '.join(names[:_SHOWN] + ['...'] * (len(names) > _SHOWN))}}}"
    if parts:
        return f"{origin.__name__}[{', '.join(map(describe_type, parts))}]"
    return str(getattr(hint, "__name__", hint))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return "required"


@functools.cache  # reading the source is most of what loading a recipe takes
def _field_comments(cls: type) -> dict[str, str]:
    """Read the comments beside and directly above each field of a dataclass."""
    source = textwrap.dedent(inspect.getsource(cls))
    comments = {
        token.start[0]: token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    meanings: dict[str, str] = {}
    for node in typing.cast("ast.ClassDef", ast.parse(source).body[0]).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in comments and comments[first - 1].line.lstrip().startswith("#"):
                first -= 1
            lines = range(first, (node.end_lineno or node.lineno) + 1)
            texts = [comments[line].string.lstrip("# ") for line in lines if line in comments]
            meanings[node.target.id] = " ".join(texts)
    return meanings
