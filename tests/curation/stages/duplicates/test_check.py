"""The self-check on planted copies."""

import pool as pools
import pytest

from dinoforge.tables import read_table


def test_a_copy_is_found_when_its_pair_with_the_original_is_above_the_threshold(inputs, cosines):
    rows = read_table(inputs.file("check", "planted.parquet")).to_pylist()
    (facts,) = inputs.facts("check")
    assert 0 < len(rows) == facts["planted"] <= inputs.config.plant.count
    for row in rows:
        copy, original = row["image_id"], row["planted_from"]
        same = cosines.content[copy] == cosines.content[original]
        similarity = 1.0 if same else cosines.similarity[copy, original]
        assert row["found"] == (same or similarity > inputs.config.duplicates.threshold)
        if similarity > inputs.config.duplicates.floor:
            assert row["similarity"] == pytest.approx(similarity, abs=1e-5)
    assert facts["recall"]["hits"] == sum(row["found"] for row in rows)
    assert facts["recall"]["n"] == sum(kind["n"] for kind in facts["recall_by_edit"].values())
    at_threshold = next(p for p in facts["curve"] if p["threshold"] == 0.95)
    assert at_threshold["recall"] == facts["recall"]["value"]
    recalls = [point["recall"] for point in facts["curve"]]
    assert recalls == sorted(recalls, reverse=True)


def test_without_planted_copies_there_is_no_check(pool, tmp_path):
    sources = [{"role": "pool", "paths": pool.sources[0]["paths"]}]
    more = ("plant.count=0", "retrieve.mode=none")
    assert pools.curated(pools.recipe(sources, tmp_path / "run", *more)).check is None
