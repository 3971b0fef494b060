"""Shards: bytes as they were, read by webdataset, counted; the policies of retrieval."""

import gc
import json
import warnings
from collections import Counter

import pool as pools
import pytest
import webdataset as wds

from dinoforge.shards.index import index_shard, verify_shard
from dinoforge.shards.reading import RangeReader
from dinoforge.shards.sidecar import read_sidecar

_PLACES = ("__url__", "__local_path__")


def shard_samples(run):
    tars = sorted(str(tar) for tar in (run / "shards").glob("*.tar"))
    with warnings.catch_warnings():
        # webdataset 1.0 leaves the last shard open for the garbage collector to close.
        warnings.simplefilter("ignore", ResourceWarning)
        data = wds.WebDataset(tars, shardshuffle=False, empty_check=False)
        result = [{k: v for k, v in sample.items() if k not in _PLACES} for sample in data]
        del data
        gc.collect()
    return result


def test_what_webdataset_reads_is_the_ledger_byte_for_byte(calm):
    ledger = {row["out_key"]: row for row in pools.ledger(calm) if row["decision"] == "kept"}
    reader = RangeReader()
    samples = shard_samples(calm)
    assert len(samples) == len(ledger)
    assert {sample["__key__"] for sample in samples} == ledger.keys()
    for sample in samples:
        row = ledger[sample["__key__"]]
        (suffix,) = sample.keys() - {"__key__", "cls", "json"}
        image = sample[suffix]
        assert pools.sha256(image) == row["sha256"]
        made = row["shard"].startswith("curation/")
        shard = str(calm / row["shard"]) if made else row["shard"]
        assert image == reader.read(shard, row["offset"], row["size"])
        notes = json.loads(sample["json"])
        assert (notes["image_id"], notes["key"]) == (row["image_id"], row["key"])
        assert (notes["sha256"], notes["reason"]) == (row["sha256"], row["reason"])
        assert notes.get("seed_id") == row["seed_id"]
        assert notes.get("rank") == row["rank"]
        assert ("cls" in sample) == (row["label"] >= 0)
        if "cls" in sample:
            assert int(sample["cls"]) == row["label"]


def test_classes_are_named_in_the_order_of_their_numbers(calm):
    names = (calm / "shards/classes.txt").read_text().splitlines()
    seen = set()
    for sample in shard_samples(calm):
        notes = json.loads(sample["json"])
        if "class_name" in notes:
            assert names[int(sample["cls"])] == notes["class_name"]
            seen.add(notes["class_name"])
    assert len(seen) > 5


def test_shards_hold_what_their_checksum_files_state(calm):
    tars = sorted((calm / "shards").glob("*.tar"))
    assert [tar.name for tar in tars] == [f"pool-{n:06d}.tar" for n in range(len(tars))]
    counts = []
    for tar in tars:
        facts, index = read_sidecar(tar), index_shard(tar)
        assert verify_shard(tar) == []
        assert (index.complete, index.problems) == (True, [])
        assert len(index.samples) == facts.samples
        counts.append(facts.samples)
    assert counts[:-1] == [25] * (len(tars) - 1)
    assert 0 < counts[-1] <= 25


def test_every_row_states_where_it_went_or_why_not(calm):
    rows = pools.ledger(calm)
    by_shard = Counter(row["out_shard"] for row in rows if row["out_shard"])
    for tar, count in by_shard.items():
        assert len(index_shard(calm / "shards" / tar).samples) == count
    for row in rows:
        kept = row["decision"] == "kept"
        assert kept == (row["out_key"] is not None) == (row["copies"] > 0)
        if row["reason"] in ("exact_duplicate", "near_duplicate"):
            keeper = rows[row["duplicate_of"]]
            assert keeper["component"] == row["component"]
            assert keeper["reason"] not in ("exact_duplicate", "near_duplicate")
            assert row["image_id"] in (row["edge_i"], row["edge_j"])
        if row["reason"] == "near_duplicate":
            assert row["similarity"] > 0.95
        if row["reason"] == "retrieved":
            assert rows[row["seed_id"]]["role"] == "seed"
            assert 0 <= row["rank"] < 6


@pytest.mark.parametrize("policy", ["multiset", "distinct", "fill"])
def test_the_policies_of_retrieval_grant_what_they_state(pool, tmp_path, policy):
    config = pools.recipe(pool.sources, tmp_path / "run", f"retrieve.policy={policy}")
    summary = pools.curated(config)
    rows = pools.ledger(tmp_path / "run")
    facts, retrieved = summary.retrieval, [row for row in rows if row["reason"] == "retrieved"]
    seeds = 13
    assert (facts["seeds"], facts["asked"], facts["distinct"]) == (seeds, 6 * seeds, len(retrieved))
    assert sum(int(n) * count for n, count in facts["multiplicity"].items()) == facts["slots"]
    copies = sum(row["copies"] for row in retrieved)
    if policy == "multiset":
        assert copies == facts["slots"] == 6 * seeds > len(retrieved)
    elif policy == "distinct":
        assert copies == len(retrieved) < 6 * seeds
    else:
        assert copies == len(retrieved) == facts["slots"] == 6 * seeds
    assert summary.exported == seeds + copies == len(shard_samples(tmp_path / "run"))
    keys = Counter(
        sample["__key__"].partition("-")[0] for sample in shard_samples(tmp_path / "run")
    )
    assert keys == {row["out_key"]: row["copies"] for row in rows if row["copies"]}


def test_the_funnel_adds_up_by_role_and_by_reason(pool, calm, tmp_path):
    for more in ([], ["retrieve.mode=none"], ["retrieve.keep_seeds=false"], ["retrieve.keep=all"]):
        run = tmp_path / "-".join(more).replace(".", "_") if more else calm
        summary = pools.curated(pools.recipe(pool.sources, run, *more))
        rows = pools.ledger(run)
        assert summary.images == len(rows)
        counted = Counter((row["role"], row["reason"]) for row in rows)
        assert counted == {(r, why): n for r, c in summary.roles.items() for why, n in c.items()}
        funnel = [(row.label, row.count) for row in summary.funnel()]
        gone = sum(n for label, n in funnel if "dropped" in label or "only " in label)
        counts = dict(funnel)
        (images,) = (n for label, n in funnel if label.startswith("images in"))
        assert images - gone == counts["kept"] == summary.kept, more
        assert sum(n for label, n in funnel if label.startswith("of these")) == summary.kept, more
        written = json.loads((run / "published/summary.json").read_text())
        assert [(row["label"], row["count"]) for row in written["funnel"]] == funnel
