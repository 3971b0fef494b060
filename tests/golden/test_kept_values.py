"""The part of the golden values that the project keeps: the same bytes, and small."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.golden

KEPT = Path(__file__).parent / "data"
FILES = sorted(
    str(path.relative_to(KEPT))
    for path in KEPT.rglob("*")
    if path.is_file() and "eval" not in path.parts
)


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_is_that_of_the_reference(shared, name):
    assert (KEPT / name).read_bytes() == (shared / "golden" / name).read_bytes()


def test_the_kept_files_are_small():
    assert sum((KEPT / name).stat().st_size for name in FILES) <= 2_500_000
