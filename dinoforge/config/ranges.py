"""Ranges of recipe keys: declared beside the key; checked and explained from there.

``steps: PositiveInt = 125000``, or ``hue: Annotated[float, Range(0, 0.5)] = 0.1``. A rule between
several keys is a method ``faults(at)`` of the config dataclass.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

from dinoforge.errors import Fault

__all__ = [
    "Config",
    "Fraction",
    "Matches",
    "NonEmpty",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OneOf",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "describe_range",
    "find_faults",
]


class Config(Protocol):
    """Any config dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class _Check(Protocol):
    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, except for some (often one of the two ends)."""

    low: float
    high: float = math.inf
    exclude: tuple[float, ...] = ()

    def allows(self, value: Any) -> bool:
        """Check a number."""
        return self.low <= value <= self.high and value not in self.exclude

    def __str__(self) -> str:
        low, high = ("<" if end in self.exclude else "<=" for end in (self.low, self.high))
        inner = [f", not {n}" for n in self.exclude if n not in {self.low, self.high}]
        if self.high == math.inf:
            text = f"more than {self.low}" if low == "<" else f"{self.low} or more"
        elif low == high == "<=":
            text = f"{self.low} to {self.high}"
        else:
            text = f"{self.low} {low} value {high} {self.high}"
        return text + "".join(inner)


@dataclass(frozen=True)
class OneOf:
    """One of several words."""

    choices: tuple[str, ...]

    def allows(self, value: Any) -> bool:
        """Check a word."""
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(self.choices)}"


@dataclass(frozen=True)
class Matches:
    """Text that matches a pattern as a whole; ``meaning`` describes it to people."""

    pattern: str
    meaning: str

    def allows(self, value: Any) -> bool:
        """Check a text."""
        return re.fullmatch(self.pattern, value, re.ASCII) is not None

    def __str__(self) -> str:
        return self.meaning


@dataclass(frozen=True)
class NonEmpty:
    """A list that needs at least one element."""

    element: str = "value"  # what an element is, for people

    def allows(self, value: Sized) -> bool:
        """Check a list."""
        return len(value) > 0

    def __str__(self) -> str:
        return f"at least one {self.element}"


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, exclude=(0,))]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]


def find_faults(value: Any, at: str = "", hint: Any = None, *, verb: str = "is") -> Iterator[Fault]:
    """Find values out of range, floats that are not finite, and broken rules between keys.

    Parameters
    ----------
    value : config dataclass
        Or what one of its keys holds.
    at : str
        Dotted key of ``value``; "" for a whole config.
    hint : type, optional
        Declared type of ``value``.
    verb : str
        ``holds`` where ``value`` is an element of the list under ``at``.

    Yields
    ------
    Fault
        Its ``what`` begins with the key in backticks; its ``where`` is ``recipe``.
    """
    hint, checks = _unwrap(hint)
    broken = [check for check in checks if value is not None and not check.allows(value)]
    if isinstance(value, float) and not math.isfinite(value):
        yield Fault(f"`{at}` {verb} {value}", "recipe", "give a finite number")
    elif broken:
        shown = "empty" if value == [] else repr(value)
        yield Fault(f"`{at}` {verb} {shown}", "recipe", f"give {broken[0]}")
    elif isinstance(value, list | tuple):
        hints = typing.get_args(hint) or (None,)
        for index, part in enumerate(value):
            key = f"{at}[{index}]" if dataclasses.is_dataclass(part) else at
            yield from find_faults(part, key, hints[min(index, len(hints) - 1)], verb="holds")
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from find_faults(part, f"{at}.{key}", (typing.get_args(hint) or (None,))[-1])
    elif dataclasses.is_dataclass(value):
        yield from _find_section_faults(value, at)


def _find_section_faults(config: Any, at: str) -> Iterator[Fault]:
    hints = typing.get_type_hints(type(config), include_extras=True)
    in_range = True
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        key = f"{at}.{field.name}" if at else field.name
        faults = list(find_faults(value, key, hints[field.name]))
        yield from faults
        in_range &= not faults or dataclasses.is_dataclass(value)
    # With a key of its own out of range, a rule would report a consequence.
    if in_range and hasattr(config, "faults"):
        yield from config.faults(at)


def describe_range(hint: Any) -> str:
    """Describe the values that a declared type admits, e.g. ``each 0 to 1``; "" for all."""
    hint, checks = _unwrap(hint)
    texts = [str(check) for check in checks]
    if typing.get_origin(hint) in {list, tuple}:
        parts = dict.fromkeys(describe_range(part) for part in typing.get_args(hint))
        texts += [f"each {part}" for part in parts if part]
    return ", ".join(texts)


def _unwrap(hint: Any) -> tuple[Any, list[_Check]]:
    """Split a declared type, ``X | None`` included, into the bare type and its checks."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return _unwrap(parts[0]) if len(parts) == 1 else (hint, [])
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, list(hint.__metadata__)
    return hint, []
