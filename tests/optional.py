"""Packages of extras for tests, which skip without them."""

from typing import Any

import pytest

from dinoforge.errors import UsageError
from dinoforge.packages import import_extra

__all__ = ["optional"]


def optional(name: str, extra: str) -> Any:
    """Import a package of an extra, or skip the test or module that needs it."""
    try:
        return import_extra(name, extra=extra, where="a test")
    except UsageError as error:
        pytest.skip(str(error), allow_module_level=True)
