"""Your own encoder: any function from images to vectors, by its dotted name."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dinoforge.encoders.encoder import Images, Vectors, fingerprint_of, unit_rows
from dinoforge.errors import UsageError
from dinoforge.hashing import sha256_file

__all__ = ["CallableEncoder"]

_EXAMPLE = "python:package.module:function"


class CallableEncoder:
    """Calls ``function(images) -> [B, D]`` with a list of RGB uint8 arrays ``[H, W, 3]``.

    The fingerprint covers the file in which the function is written. A function that depends on
    more (weights, settings) should say so in an attribute ``fingerprint`` (a string).

    Raises
    ------
    UsageError
        If the name leads nowhere, or what the function returns is not one finite vector an image.
    """

    def __init__(self, dotted: str) -> None:
        self.name = f"python:{dotted}"
        self._function = _find(dotted)
        # One gray picture tells the dimension before a long run starts.
        self.dim = self._call([np.full((32, 32, 3), 127, np.uint8)]).shape[1]
        self.fingerprint = fingerprint_of(
            encoder=self.name,
            code=_code_hash(self._function),
            own=str(getattr(self._function, "fingerprint", "")),
        )

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`."""
        if not len(images):
            return np.zeros((0, self.dim), np.float32)
        return unit_rows(self._call(images))

    def _call(self, images: Images) -> np.ndarray:
        rows = np.asarray(self._function(list(images)))
        if rows.ndim != 2 or len(rows) != len(images) or not np.isfinite(rows).all():
            raise UsageError(
                what=f"the function gave {rows.dtype} {list(rows.shape)} for {len(images)} images",
                where=self.name,
                do="return one vector of finite numbers an image, [B, D]",
            )
        return rows


def _find(dotted: str) -> Callable[[list[Any]], Any]:
    module_name, colon, attribute = dotted.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(
            what="no function is named", where=f"python:{dotted}", do=f"write {_EXAMPLE}"
        )
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            what=f"cannot load the function: {error}",
            where=f"python:{dotted}",
            do="run from the folder of the module, or install its package",
        ) from error
    if not callable(found):
        raise UsageError(
            what=f"`{attribute}` is not callable", where=module_name, do=f"write {_EXAMPLE}"
        )
    return found


def _code_hash(function: Any) -> str:
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # an object with __call__, or something compiled
        path = inspect.getsourcefile(type(function)) if not inspect.isbuiltin(function) else None
    return sha256_file(Path(path)) if path else ""
