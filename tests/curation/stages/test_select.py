"""Decisions and shards: every kept image once, in shards of the sizes that the recipe gives."""

from collections import Counter

import numpy as np
import pytest

from dinoforge.curation.config import ExportConfig
from dinoforge.curation.stages.select import cut_shards
from dinoforge.curation.stored.decisions import exports_file, list_shards, read_decisions
from dinoforge.tables import read_table


@pytest.mark.parametrize(
    ("sizes", "images", "starts"),
    [
        ([100] * 5, 2, [0, 2, 4]),
        ([100] * 4, 2, [0, 2]),
        ([600_000] * 4, 9, [0, 1, 2, 3]),  # two do not fit into 1 MiB
        ([400_000] * 4, 9, [0, 2]),
        ([100, 5_000_000, 100], 9, [0, 1, 2]),  # one image larger than a shard
        ([], 9, []),
    ],
)
def test_a_shard_ends_before_it_has_too_many_images_or_bytes(sizes, images, starts):
    policy = ExportConfig(shard_images=images, shard_mib=1)
    assert cut_shards(np.array(sizes, np.int64), policy).tolist() == starts


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
