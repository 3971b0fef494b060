"""Decisions and shards: every kept image once, in shards of the sizes that the recipe gives."""

from collections import Counter

import numpy as np

from dinoforge.curation.stored.decisions import exports_file, list_shards, read_decisions
from dinoforge.tables import read_table


def test_every_kept_image_is_exported_once_in_an_order_that_mixes_sources(inputs):
    decisions = read_decisions(inputs)
    rows = read_table(exports_file(inputs)).to_pylist()
    exported = [row["image_id"] for row in rows]
    assert sorted(exported) == np.flatnonzero(decisions.kept).tolist()
    assert exported != sorted(exported)
    shards = list_shards(inputs)
    assert Counter(row["out_shard"] for row in rows) == {
        number: shard.stop - shard.first for number, shard in enumerate(shards)
    }
    assert [shard.name for shard in shards[:2]] == ["pool-000000.tar", "pool-000001.tar"]


def test_every_image_has_a_decision_and_only_kept_ones_have_copies(inputs):
    decisions = read_decisions(inputs)
    assert (decisions.reason >= 0).all()
    np.testing.assert_array_equal(decisions.copies > 0, decisions.kept)
