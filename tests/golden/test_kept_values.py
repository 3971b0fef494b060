"""The part of the golden values that the project keeps: the same bytes, and small."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.golden

KEPT = Path(__file__).parent / "data"
FILES = sorted(str(path.relative_to(KEPT)) for path in KEPT.rglob("*") if path.is_file())
# Computed for this project: by a peer, and by `make_dinov3.py`.
OWN = {"logistic.json", "logistic.safetensors"}
OWN |= {name for name in FILES if name.startswith("dinov3/")}


@pytest.mark.parametrize("name", [name for name in FILES if name not in OWN])
def test_a_kept_file_is_that_of_the_reference(shared, name):
    places = [shared / folder / name for folder in ("golden", "golden-eval")]
    originals = [path for path in places if path.exists()]
    assert originals, f"{name} is in neither reference folder"
    assert (KEPT / name).read_bytes() in [path.read_bytes() for path in originals]


def test_the_kept_files_are_small():
    assert sum((KEPT / name).stat().st_size for name in FILES) <= 3_000_000
