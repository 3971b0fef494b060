"""Embeddings: one row per image, those of the encoder, zero where nothing decodes."""

import numpy as np

from dinoforge.curation.tables import (
    ImageReader,
    num_images,
    read_embeddings,
    read_facts,
    read_locations,
)
from dinoforge.encoders.make import make_encoder
from dinoforge.images import decode


def test_rows_are_those_of_the_encoder_and_zero_for_undecodable_images(inputs):
    rows = np.concatenate([np.load(path) for path in inputs.files("embed", "embeddings.npy")])
    decodes = read_facts(inputs, ["width"]).column("width").to_numpy() > 0
    assert len(rows) == num_images(inputs)
    assert not rows[~decodes].any()
    assert (~decodes).any()
    images = ImageReader(inputs.run_folder).read_each(read_locations(inputs, 40, 60))
    pictures = [decode(data) for data, good in zip(images, decodes[40:60], strict=True) if good]
    expected = make_encoder("pixels").encode(pictures)
    np.testing.assert_allclose(rows[40:60][decodes[40:60]], expected, atol=2e-3)


def test_unit_rows_are_read_across_partitions(inputs):
    ids = np.array([3, 46, 47, 48, 100])
    size = inputs.config.partition_images
    rows = read_embeddings(inputs, "embed", ids)
    files = [np.load(path) for path in inputs.files("embed", "embeddings.npy")]
    stored = np.stack([files[i // size][i % size] for i in ids]).astype(np.float64)
    norms = np.linalg.norm(stored, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, stored / np.where(norms > 0, norms, 1), atol=1e-6)
    assert read_embeddings(inputs, "embed", ids[:0]).shape == (0, 1)


def test_the_second_encoder_has_nothing_to_do_unless_it_is_another_one(inputs):
    assert inputs.files("embed-meaning", "embeddings.npy") == []
