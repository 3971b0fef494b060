"""The fuzzing in miniature: mutated inputs without atheris, of which none may fail."""

import random

import pytest


@pytest.fixture(scope="module")
def fuzzing(load_benchmark):
    return load_benchmark("fuzz_bytes")


@pytest.mark.parametrize("target", ["decoder", "index"])
def test_mutated_inputs_give_a_result_or_a_reason(fuzzing, shared, target):
    seeds = fuzzing.read_seeds([str(shared / "data/dirty")], target)
    fuzzing.reasons.clear()
    for data in fuzzing.mutated(seeds, 600, seed=0):
        fuzzing.TARGETS[target](data)
    expected = {
        "decoder": {"decoded", "truncated", "damaged", "not_an_image"},
        "index": {"images", "truncated", "bad_header"},
    }
    assert expected[target] <= fuzzing.reasons.keys()


def test_repaired_checksums_fit(fuzzing, shared):
    good = (shared / "data/dirty/shard_good.tar").read_bytes()
    assert fuzzing.repaired(good) == good
    assert fuzzing.repaired(good[:150] + b"\1" + good[151:]) == good
    png = (shared / "data/dirty/ok_rgba.png").read_bytes()
    assert fuzzing.repaired(png) == png
    assert fuzzing.repaired(png[:-1] + b"\1") == png


def test_a_wrong_result_is_reported(fuzzing, monkeypatch):
    import dinoforge.shards.index

    counter = iter(range(9))
    monkeypatch.setattr(dinoforge.shards.index, "index_shard", lambda path: next(counter))
    with pytest.raises(fuzzing.InvalidResult, match="two different indexes"):
        fuzzing.check_index(random.Random(0).randbytes(512))
