"""Planted copies: every one is found again by its place, whatever the originals are."""

import io

import numpy as np
import pool as pools
import pytest
from PIL import Image

from dinoforge.images import decode
from dinoforge.shards.reading import RangeReader
from dinoforge.shards.writer import ShardWriter

KINDS = 'plant.kinds=["exact","jpeg"]'


@pytest.fixture
def sources(tmp_path):
    """Eight PNG files whose names do not say so."""
    (tmp_path / "images").mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        suffix = "" if number % 2 else ".dat"
        (tmp_path / f"images/photo{number}{suffix}").write_bytes(file.getvalue())
    return [{"role": "pool", "paths": [str(tmp_path / "images")]}]


def planted(run):
    rows = pools.ledger(run)
    reader = RangeReader()
    for row in rows:
        if row["planted_from"] is not None:
            data = reader.read(str(run / row["shard"]), row["offset"], row["size"])
            yield row, rows[row["planted_from"]], data


def test_files_without_an_images_suffix_are_copied_exactly(sources, tmp_path):
    more = ("retrieve.mode=none", "plant.count=8", KINDS)
    pools.curated(pools.recipe(sources, tmp_path / "run", *more))
    result = list(planted(tmp_path / "run"))
    assert len(result) == 8
    for row, original, data in result:
        same = pools.sha256(data) == original["sha256"]
        assert same == (row["edit"] == "exact")
        assert row["member"].endswith(".png" if same else ".jpg")


def test_copies_larger_than_a_shard_all_have_their_place(sources, tmp_path, monkeypatch):
    # The writer's own limits, made small: half a gigabyte of copies is as many shards otherwise.
    monkeypatch.setattr(ShardWriter.__init__, "__defaults__", (10_000, 20_000))
    more = ("retrieve.mode=none", "plant.count=8", KINDS)
    pools.curated(pools.recipe(sources, tmp_path / "run", *more))
    result = list(planted(tmp_path / "run"))
    assert len(result) == 8
    assert all(decode(data).shape == (40, 40, 3) for _, _, data in result)
