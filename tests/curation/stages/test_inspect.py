"""Facts of images: what Pillow and hashlib say about the same bytes."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from dinoforge.curation.stored.decoding import ImageReader
from dinoforge.curation.tables import FACTS_SCHEMA, num_images, read_facts, read_locations


def test_facts_are_those_of_the_bytes_on_disk(inputs):
    num = num_images(inputs)
    facts = read_facts(inputs, FACTS_SCHEMA.names).to_pylist()
    assert [row["image_id"] for row in facts] == list(range(num))
    images = ImageReader(inputs.run_folder).read_each(read_locations(inputs, 0, num))
    pixels = {}
    for row, data in zip(facts, images, strict=True):
        assert row["sha256"] == hashlib.sha256(data).digest()
        if row["reason"] is not None:
            assert (row["width"], row["pixels_sha256"]) == (0, None)
            continue
        image = Image.open(io.BytesIO(data)).convert("RGB")
        assert (row["width"], row["height"]) == image.size
        gray = np.asarray(image).astype(int) @ [77, 150, 29] >> 8
        assert row["std"] == pytest.approx(gray.std(), abs=1e-4)
        assert pixels.setdefault(row["pixels_sha256"], image.tobytes()) == image.tobytes()
    reasons = {row["reason"] for row in facts}
    assert reasons >= {None, "empty", "truncated", "not_an_image"}


def test_the_bytes_of_an_image_can_be_read_again_only_while_they_exist(inputs):
    reader = ImageReader(inputs.run_folder)
    with pytest.raises(Exception, match=r"image file no longer exists - gone.tar - "):
        reader.read("gone.tar", 0, 10)
    assert reader.read("/", 0, 10) is None
