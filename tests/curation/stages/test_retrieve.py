"""Slots: what seeds are granted, and the counts of collisions."""

from collections import Counter

from dinoforge.curation.stored.decisions import read_survivors
from dinoforge.tables import read_table


def test_each_seed_is_granted_its_k_nearest_in_order(inputs):
    rows = read_table(inputs.file("retrieve", "slots.parquet")).to_pylist()
    k, (seeds, pool) = inputs.config.retrieve.k, read_survivors(inputs)
    by_seed = {seed: [row for row in rows if row["seed_id"] == seed] for seed in seeds.tolist()}
    for candidates in by_seed.values():
        assert [row["rank"] for row in candidates] == list(range(len(candidates)))
        scores = [row["score"] for row in candidates]
        assert scores == sorted(scores, reverse=True)
        assert [row["granted"] for row in candidates] == [row["rank"] < k for row in candidates]
    times = Counter(row["image_id"] for row in rows if row["granted"])
    (facts,) = inputs.facts("retrieve")
    assert (facts["seeds"], facts["pool"]) == (len(seeds), len(pool))
    assert (facts["slots"], facts["distinct"]) == (times.total(), len(times))
    assert facts["multiplicity"] == {
        str(number): count for number, count in Counter(times.values()).items()
    }
