"""Values of recipes as text, without loss: YAML that holds any name of a file.

Names may contain control characters and bytes that are not UTF-8, which Python reads as surrogates.
YAML refuses both, so they are moved to private characters while it reads.
"""

import contextlib
import json
import re
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = ["dump_yaml", "read_value", "read_yaml"]

_REFUSED = re.compile("[\0-\b\v\f\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
# `dump_yaml` writes them so; an even number of backslashes before it are characters of their own.
_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89a-f][0-9a-f]{2})", re.IGNORECASE)
_MOVED = 0x100000
_PRIVATE = re.compile(
    "[\U00100000-\U00100008\U0010000b\U0010000c\U0010000e-\U0010001f"
    "\U0010007f-\U00100084\U00100086-\U0010009f\U0010d800-\U0010dfff]"
)


def read_yaml(text: str) -> Any:
    """Read YAML as OmegaConf does, which knows more numbers than YAML: ``1e-3``.

    Raises ``yaml.YAMLError`` or ``OmegaConfBaseException``.
    """
    moved = _REFUSED.sub(lambda match: chr(ord(match[0]) + _MOVED), text)
    moved = _ESCAPED.sub(r"\1\\U0010\2", moved)
    return _move_back(OmegaConf.to_container(OmegaConf.create(moved)))


def read_value(text: str) -> Any:
    """Read a value of the command line, as JSON or YAML; text that is neither stays as it is."""
    with contextlib.suppress(ValueError):
        if text.startswith(("[", "{")):  # YAML reads `"\ud83d\ude00"` of JSON as two characters
            return json.loads(text)
    with contextlib.suppress(yaml.YAMLError, OmegaConfBaseException):
        return read_yaml(f"value: {text}")["value"]
    return text


def _move_back(value: Any) -> Any:
    if isinstance(value, dict):
        return {_move_back(key): _move_back(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_move_back(part) for part in value]
    if isinstance(value, str):
        return _PRIVATE.sub(lambda match: chr(ord(match[0]) - _MOVED), value)
    return value


class _Dumper(yaml.SafeDumper):
    """Writes text with line breaks in double quotes, with escapes."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Represent text; `str.isprintable` is false for line breaks."""
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def dump_yaml(plain: Any) -> str:
    """Write plain values as YAML, each on one line; ``yaml.safe_load`` and `read_yaml` read it."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=1 << 30)
