"""Where golden values are: the reference folder, or the small part of it that is kept here."""

from collections.abc import Callable
from pathlib import Path

import pytest

KEPT = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden_file(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Find a file of the reference by its name; skips when it is neither there nor kept."""

    def find(name: str) -> Path:
        try:
            return request.getfixturevalue("shared") / "golden" / name
        except pytest.skip.Exception:
            if (KEPT / name).exists():
                return KEPT / name
            raise

    return find
