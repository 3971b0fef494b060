"""Where golden values are: the reference folder, or the small part of it that is kept here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

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


@pytest.fixture(scope="session")
def golden_eval(shared: Path) -> Callable[[str], tuple[Any, dict[str, Any]]]:
    """Read a group of the evaluation's values by its name: settings and scalars, arrays."""

    def read(name: str) -> tuple[Any, dict[str, Any]]:
        path = shared / "golden-eval" / name
        return json.loads(path.with_suffix(".json").read_text()), load_file(
            path.with_suffix(".safetensors")
        )

    return read
