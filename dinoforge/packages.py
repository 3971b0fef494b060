"""Packages of extras, imported when they are needed; a missing one is an error with its command."""

import importlib
import importlib.util
import re
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from dinoforge.errors import UsageError, first_line

__all__ = ["import_extra"]

_READ_TORCHVISION = {"timm", "torchmetrics", "transformers"}  # they import it if it is installed


def import_extra(name: str, *, extra: str, where: str, note: str = "") -> ModuleType:
    """Import the package or module ``name`` of ``pip install "dinoforge[extra]"``.

    ``where`` is what needs it, ``note`` is added to the command in the error.

    Raises
    ------
    UsageError
        If it is not installed or cannot be imported.
    """
    package = name.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its optional parts
            if package in _READ_TORCHVISION:
                _import_torchvision()
            return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        raise UsageError(
            what=f"{package} cannot be imported: {first_line(error)}",
            where=where,
            do=f'pip install "dinoforge[{extra}]"{note}',
        ) from error


@lru_cache(maxsize=1)
def _import_torchvision() -> object:
    """Import torchvision, if it is installed, also one whose operators fit another torch.

    Nothing here runs these operators (boxes of detectors), but its import fails where a description
    of one finds none. So they are declared, without an implementation. Returns the declarations,
    which end with the object.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    import torch

    described = Path(spec.origin).with_name("_meta_registrations.py").read_text(encoding="utf-8")
    library = torch.library.Library("torchvision", "DEF")
    for operator in re.findall(r'register_fake\("torchvision::(\w+)"\)', described):
        library.define(f"{operator}() -> ()")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")
    return library
