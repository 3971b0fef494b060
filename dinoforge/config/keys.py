"""What keys a recipe has: type, default and the comment beside the field in the code."""

import ast
import dataclasses
import difflib
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dinoforge.config.ranges import describe_range

__all__ = ["KeyHelp", "describe_keys", "nearest"]


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
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if not found:
        # A key typed without its section: compare last parts.
        last = {choice.rsplit(".", 1)[-1]: choice for choice in choices}
        tail = difflib.get_close_matches(word.rsplit(".", 1)[-1], last, n=1, cutoff=0.75)
        found = [last[tail[0]]] if tail else []
    return found[0] if found else None


def describe_keys(cls: type, prefix: str = "") -> dict[str, KeyHelp]:
    """Describe every leaf key of a config dataclass, in declaration order."""
    return {help_.key: help_ for help_ in _walk(cls, prefix)}


def _walk(cls: type, prefix: str) -> Iterator[KeyHelp]:
    hints = typing.get_type_hints(cls)
    comments = _field_comments(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint):
            yield from _walk(typing.cast("type", hint), f"{key}.")
            continue
        yield KeyHelp(
            key=key,
            type=type_name(hint),
            default=_default(field),
            range=describe_range(typing.get_type_hints(cls, include_extras=True)[field.name]),
            meaning=comments.get(field.name, ""),
            where=f"{cls.__module__}.{cls.__qualname__}",
        )
        inner = _dataclass_inside(hint)
        if inner is not None:
            yield from _walk(inner, f"{key}[].")


def _dataclass_inside(hint: Any) -> type | None:
    for part in typing.get_args(hint):
        if dataclasses.is_dataclass(part):
            return typing.cast("type", part)
    return None


def type_name(hint: Any) -> str:
    """Name a type as people write it: ``int``, ``a | b``, ``list[str]``."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return "required"


def _field_comments(cls: type) -> dict[str, str]:
    """Comment beside, above, or docstring below each field of a dataclass."""
    comments: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if dataclasses.is_dataclass(owner):
            comments |= _own_comments(owner)
    return comments


def _own_comments(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:
        return {}
    notes = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = typing.cast("ast.ClassDef", ast.parse(source).body[0]).body
    found: dict[str, str] = {}
    for index, node in enumerate(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        text = _lines_above(notes, source, node.lineno)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
            text = " ".join(filter(None, [text, notes.get(line, "")]))
        after = body[index + 1] if index + 1 < len(body) else None
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(filter(None, [text, str(after.value.value).strip()]))
        found[node.target.id] = text
    return found


def _lines_above(notes: dict[int, str], source: str, line: int) -> str:
    lines = source.splitlines()
    above: list[str] = []
    line -= 1
    while line in notes and lines[line - 1].lstrip().startswith("#"):
        above.append(notes[line])
        line -= 1
    return " ".join(reversed(above))
