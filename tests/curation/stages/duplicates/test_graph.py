"""The join: every pair above the floor, found by comparing all images with all."""

import numpy as np
import pytest

from dinoforge.curation.stages.duplicates import graph
from dinoforge.curation.tables import read_pairs
from dinoforge.neighbors.filters import Int8Filter, RotationFilter
from dinoforge.stages import Output
from dinoforge.tables import read_table


def test_pairs_are_all_those_above_the_floor_without_two_references(inputs, cosines):
    images, references = cosines.joined
    every = np.concatenate([images, references])
    result = {
        (min(i, j), max(i, j))
        for i in images.tolist()
        for j in every.tolist()
        if i != j and cosines.similarity[i, j] > inputs.config.duplicates.floor
    }
    pairs = read_pairs(inputs)
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == sorted(result)
    np.testing.assert_allclose(pairs.similarity, cosines.similarity[pairs.i, pairs.j], atol=1e-5)
    assert len(references) > 0


def test_the_facts_count_what_was_compared(inputs, cosines):
    images, references = (len(ids) for ids in cosines.joined)
    facts = inputs.facts("graph")
    assert (
        sum(part["compared"] for part in facts) == images * (images - 1) // 2 + images * references
    )
    assert sum(part["pairs"] for part in facts) == len(read_pairs(inputs).i)
    assert {part["filter"] for part in facts} == {"plain products"}, "too few to choose"


@pytest.mark.parametrize("kind", [RotationFilter, Int8Filter])
def test_the_pairs_do_not_depend_on_the_filter(inputs, kind, monkeypatch, tmp_path):
    pairs = read_pairs(inputs)
    dim = inputs.facts("embed")[0]["dim"]
    pair_filter = kind(np.eye(dim, dtype=np.float32)[:, : dim // 2])
    monkeypatch.setattr(graph, "choose_filter", lambda *_, **__: pair_filter)
    stage = graph.GraphStage()
    parts = []
    for index, payload in enumerate(stage.plan(inputs)):
        facts = stage.run(payload, inputs, Output(tmp_path, tmp_path, index))
        assert facts["filter"] == str(pair_filter)
        parts.append(read_table(tmp_path / f"part-{index:05d}.pairs.parquet"))
    for name in pairs._fields:
        result = np.concatenate([part[name] for part in parts])
        assert sorted(result.tolist()) == sorted(getattr(pairs, name).tolist())
