"""Which part of a recipe does not have its declared type.

OmegaConf decides whether a value is accepted; its own messages name Python classes and no key.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinoforge.config.keys import describe_type
from dinoforge.config.ranges import unwrap_type

__all__ = ["REFUSALS", "Mismatch", "find_mismatch"]

# A list where a mapping is declared, or the reverse, is a plain TypeError.
REFUSALS = (OmegaConfBaseException, TypeError)

_SHOWN = 100  # characters of a value


@dataclass(frozen=True)
class Mismatch:
    """The innermost part that is not accepted."""

    key: str  # dotted; elements of a list as in `sources[0].role`
    value: Any
    hint: Any  # its declared type

    def __str__(self) -> str:
        given = repr(self.value)
        given = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
        return f"got {given}, need {describe_type(self.hint)}"


def find_mismatch(value: Any, hint: Any, key: str = "") -> Mismatch | None:
    """Find what is wrong with ``value``, which is to have the declared type ``hint``."""
    if _is_accepted(value, hint):
        return None
    for inner_key, inner, inner_hint in _parts(value, unwrap_type(hint)[0], key):
        if mismatch := find_mismatch(inner, inner_hint, inner_key):
            return mismatch
    return Mismatch(key, value, hint)


def _is_accepted(value: Any, hint: Any) -> bool:
    holder = dataclasses.make_dataclass("holder", [("value", hint, "???")])
    try:
        OmegaConf.merge(OmegaConf.structured(holder), {"value": value})
    except REFUSALS:
        return False
    return True


def _parts(value: Any, hint: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    arguments = typing.get_args(hint)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        known = [name for name in value if name in hints]
        yield from ((f"{key}.{name}".lstrip("."), value[name], hints[name]) for name in known)
    elif isinstance(value, Mapping) and typing.get_origin(hint) is dict:
        yield from ((f"{key}.{name}", part, arguments[-1]) for name, part in value.items())
    elif isinstance(value, list) and typing.get_origin(hint) is list:
        yield from ((f"{key}[{i}]", part, arguments[0]) for i, part in enumerate(value))
