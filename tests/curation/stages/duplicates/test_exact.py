"""Contents: images with the same pixels, references apart from all others."""

import numpy as np
import pytest

from dinoforge.curation.stages.duplicates import exact
from dinoforge.curation.tables import read_facts


@pytest.mark.parametrize("rows", [1, 3, 1 << 24])
def test_the_smallest_id_with_the_same_hash_and_side_is_the_content(monkeypatch, rows):
    monkeypatch.setattr(exact, "RANGE_ROWS", rows)
    hashes = np.array([b"a", b"b", b"a", b"a", b"b", b"0", b"0"]).astype("V32")
    is_reference = np.array([0, 0, 1, 0, 1, 0, 0], bool)
    decodes = np.array([1, 1, 1, 1, 1, 0, 0], bool)
    assert exact.content_of(hashes, is_reference, decodes).tolist() == [0, 1, 2, 0, 4, 5, 6]


def test_only_contents_that_are_not_flat_are_compared(inputs, cosines):
    facts = read_facts(inputs, ["width", "std", "pixels_sha256"]).to_pylist()
    images, references = (set(ids.tolist()) for ids in cosines.joined)
    for image_id, row in enumerate(facts):
        is_first = cosines.content[image_id] == image_id
        compared = row["width"] > 0 and is_first and row["std"] >= 1
        side = references if cosines.role[image_id] == "reference" else images
        assert (image_id in side) == compared
    assert not images & references
