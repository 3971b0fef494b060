"""A user's encoder: any function from images to vectors, by its dotted name."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dinoforge.encoders.encoder import Fitting, Images, Vectors, fingerprint_of, unit_rows
from dinoforge.errors import UsageError, first_line
from dinoforge.files import sha256_file

__all__ = ["CallableEncoder", "code_hash", "find_function"]

_EXAMPLE = "python:package.module:function"


class CallableEncoder(Fitting):
    """Calls ``function(images) -> [B, D]`` with a list of RGB uint8 arrays ``[H, W, 3]``.

    The fingerprint covers the source file of the function. If it depends on more
    (weights, settings), its attribute ``fingerprint`` (a string) should describe them.

    Raises
    ------
    UsageError
        If the function cannot be imported, or does not return one finite vector per image.
    """

    def __init__(self, dotted: str) -> None:
        self.name = f"python:{dotted}"
        self._function = find_function(dotted)
        self.dim = 0
        # Encode a gray image to check the function and its dimension before a long run.
        self.dim = self._call([np.full((32, 32, 3), 127, np.uint8)]).shape[1]
        self.fingerprint = fingerprint_of(
            encoder=self.name,
            code=code_hash(self._function),
            own=str(getattr(self._function, "fingerprint", "")),
        )

    def encode(self, images: Images) -> Vectors:
        """Encode images; see `Encoder.encode`."""
        if not len(images):
            return np.zeros((0, self.dim), np.float32)
        return unit_rows(self._call(images))

    def _call(self, images: Images) -> np.ndarray:
        result = self._function(list(images))
        try:
            rows = np.asarray(result, np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"the function did not return numbers: {first_line(error)}"
            raise self._refused(what) from error
        shape = list(rows.shape)
        if rows.ndim != 2 or len(rows) != len(images) or not rows.size:
            raise self._refused(f"the function returned {shape} for {len(images)} images")
        if rows.shape[1] != (self.dim or rows.shape[1]):
            raise self._refused(f"the function returned vectors of {self.dim} and {rows.shape[1]}")
        if not np.isfinite(rows).all():
            raise self._refused("the function returned numbers that are not finite")
        return rows

    def _refused(self, what: str) -> UsageError:
        do = "return one vector of finite numbers per image, [B, D]"
        return UsageError(what=what, where=self.name, do=do)


def find_function(dotted: str) -> Callable[[list[Any]], Any]:
    """Import a function by ``module:function``; the working directory is searched, too.

    Raises
    ------
    UsageError
        If there is none.
    """
    module_name, colon, attribute = dotted.partition(":")
    if not colon or not module_name or not attribute or dotted.startswith("."):
        raise UsageError(
            what="no function is given", where=f"python:{dotted}", do=f"write {_EXAMPLE}"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # `python -m` adds it, the installed command does not
        sys.path.append(here)
    try:
        function: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            function = getattr(function, name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UsageError(
            what=f"cannot load the function: {first_line(error)}",
            where=f"python:{dotted}",
            do="run from the folder of the module, or install its package",
        ) from error
    if not callable(function):
        raise UsageError(
            what=f"`{attribute}` is not callable", where=module_name, do=f"write {_EXAMPLE}"
        )
    return function


def code_hash(function: Any) -> str:
    """Hash the source file of a function; "" if it has none."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # an object with __call__, or compiled
        path = inspect.getsourcefile(type(function)) if not inspect.isbuiltin(function) else None
    return sha256_file(Path(path)) if path else ""
