"""Ranges of recipe keys: declared beside the key; checked and explained from there.

``steps: PositiveInt = 125000``, or ``hue: Annotated[float, Range(0, 0.5)] = 0.1``. A rule between
several keys is a method ``faults(at)`` of the config dataclass.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from dinoforge.errors import Fault

__all__ = [
    "Allowed",
    "Config",
    "Device",
    "Fraction",
    "NonEmpty",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "Precision",
    "Range",
    "Workers",
    "describe_range",
    "find_faults",
    "one_of",
    "unwrap_type",
]


class Config(Protocol):
    """Any config dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True)
class Allowed:
    """Values that pass a test."""

    allows: Callable[[Any], object]
    text: str  # which values these are, e.g. "letters and digits"
    is_path: ClassVar[bool] = False  # a path may have bytes that are not UTF-8

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, except for some (often one of the two ends)."""

    low: float
    high: float = math.inf
    exclude: tuple[float, ...] = ()

    def allows(self, value: float) -> bool:
        """Check a number."""
        return self.low <= value <= self.high and value not in self.exclude

    def __str__(self) -> str:
        low, high = ("<" if end in self.exclude else "<=" for end in (self.low, self.high))
        if self.high == math.inf:
            text = f"more than {self.low}" if low == "<" else f"{self.low} or more"
        elif low == high == "<=":
            text = f"{self.low} to {self.high}"
        else:
            text = f"{self.low} {low} value {high} {self.high}"
        inside = [number for number in self.exclude if self.low < number < self.high]
        return text + "".join(f", not {number}" for number in inside)


def one_of(choices: Sequence[str]) -> Allowed:
    """Allow these words."""
    return Allowed(choices.__contains__, f"one of {', '.join(filter(None, choices))}")


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, exclude=(0,))]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
NonEmpty = Allowed(bool, "at least one")
Device = Annotated[str, Allowed(re.compile(r"cpu|cuda(:\d+)?").fullmatch, "cpu, cuda or cuda:N")]
# Threads that decode and, on a CPU, encode; 0: none beside the main one.
Workers = Annotated[str, Allowed(re.compile(r"auto|\d{1,4}").fullmatch, "auto or a number")]
Precision = Literal["float32", "bfloat16", "float16"]


def find_faults(value: Any, at: str = "", hint: Any = None, *, verb: str = "is") -> Iterator[Fault]:
    """Find values out of range, floats that are not finite, and broken rules between keys.

    ``at`` is the dotted key of ``value``, "" for a whole config; ``hint`` its declared type;
    ``verb`` is ``holds`` for the elements of a list. The ``what`` of a fault begins with the key in
    backticks; the ``where`` is ``recipe``.
    """
    hint, checks = unwrap_type(hint)
    broken = [check for check in checks if value is not None and not check.allows(value)]
    if isinstance(value, float) and not math.isfinite(value):
        yield Fault(f"`{at}` {verb} {value}", "recipe", "give a finite number")
    elif isinstance(value, str) and not _is_path(checks) and not _is_utf8(value):
        yield Fault(f"`{at}` {verb} '{value}'", "recipe", "give text in UTF-8")
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
            yield from find_faults(key, at, verb="holds")
            yield from find_faults(part, f"{at}.{key}", (typing.get_args(hint) or (None,))[-1])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _find_section_faults(value, at)


def _is_path(checks: Sequence[Allowed | Range]) -> bool:
    return any(isinstance(check, Allowed) and check.is_path for check in checks)


def _is_utf8(text: str) -> bool:
    return not re.search("[\ud800-\udfff]", text)  # as which Python reads other bytes


def _find_section_faults(config: Config, at: str) -> Iterator[Fault]:
    hints = typing.get_type_hints(type(config), include_extras=True)
    in_range = True
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        key = f"{at}.{field.name}" if at else field.name
        faults = list(find_faults(value, key, hints[field.name]))
        yield from faults
        in_range &= not faults or dataclasses.is_dataclass(value)
    # With a key of its own out of range, a rule would report a consequence.
    if in_range:
        yield from getattr(config, "faults", lambda _: ())(at)


def describe_range(hint: Any) -> str:
    """Describe the values that a declared type admits, e.g. ``each 0 to 1``; "" for all."""
    hint, checks = unwrap_type(hint)
    texts = [str(check) for check in checks]
    if typing.get_origin(hint) in {list, tuple}:
        parts = dict.fromkeys(describe_range(part) for part in typing.get_args(hint))
        texts += [f"each {part}" for part in parts if part]
    return ", ".join(texts)


def unwrap_type(hint: Any) -> tuple[Any, list[Allowed | Range]]:
    """Split a declared type, ``X | None`` included, into the bare type and its checks."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return unwrap_type(parts[0]) if len(parts) == 1 else (hint, [])
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, list(hint.__metadata__)
    return hint, []
