"""Retrieval by rules: the slots of every seed set, caps, both counts, what the recipe refuses."""

import json
import shutil
from collections import Counter

import numpy as np
import pool as pools
import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.config import load_config
from dinoforge.curated import ROLES, parts_path, slots_path, summary_path
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.explain import explain
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.tables import read_embeddings, read_screened
from dinoforge.errors import UsageError
from dinoforge.stages import make_inputs
from dinoforge.tables import read_table

RULES = [
    {"seeds": "few", "k": 5, "policy": "multiset", "weight": 0.5},
    {"seeds": "rest", "k": 3, "cap": 11},
    {"seeds": "few", "name": "filled", "k": 2, "policy": "fill"},
    {"seeds": "rest", "name": "near", "mode": "cluster", "min_seeds": 2, "per_cluster": 7}
    | {"on_small_cluster": "skip", "policy": "multiset"},
    {"seeds": "unwanted", "mode": "exclude", "threshold": 0.8},
    {"seeds": "rest", "name": "capped", "mode": "cluster", "min_seeds": 2, "per_cluster": 9}
    | {"cap": 12},
    {"seeds": "gray", "k": 2},
    {"seeds": "rest", "name": "again", "mode": "cluster", "min_seeds": 2, "per_cluster": 60}
    | {"on_small_cluster": "replace", "policy": "multiset", "cap": 100},
]
CLUSTERS = ("retrieve.clusters=8",)
NAMES = np.array(["few", "rest", "filled", "near", "unwanted", "capped", "gray", "again"])
KEYS = (
    "retrieve.clusters=8",
    "retrieve.candidates=40",
    "balance.iterations=5",
    "export.parts=true",
    "retrieve.drop_seeds=[few]",
)


def sources(folder, flat):
    return [
        {"role": "seed", "name": "few", "paths": [str(folder / "seeds")], "limit": 4},
        {"role": "seed", "name": "rest", "paths": [str(folder / "seeds")]},
        {"role": "seed", "name": "unread", "paths": [str(flat)], "limit": 1},
        {"role": "seed", "name": "gray", "paths": [str(flat)]},
        {"role": "reference", "name": "unwanted", "paths": [str(folder / "test")]},
        {"role": "pool", "paths": [str(folder / "pool")]},
    ]


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Three gray images and a text file, none of which can be a seed."""
    folder = tmp_path_factory.mktemp("flat")
    for gray in (60, 120, 180):
        Image.new("RGB", (64, 64), (gray,) * 3).save(folder / f"{gray}.png")
    (folder / "text.png").write_text("text")
    return folder


@pytest.fixture(scope="module")
def run(pool, flat, tmp_path_factory):
    """A run of seven rules; the last has no seed."""
    run = tmp_path_factory.mktemp("rules") / "run"
    pools.curated(
        pools.recipe(sources(pool.folder, flat), run, f"retrieve.rules={json.dumps(RULES)}", *KEYS)
    )
    return run


def test_every_rule_has_its_slots_caps_and_both_counts(run):
    retrieval = json.loads(summary_path(run).read_text())["retrieval"]
    few, rest, filled, near, unwanted, capped, _, again = retrieval["rules"]
    assert (few["asked"], few["before_cap"], few["slots"]) == (5 * few["seeds"],) * 3
    assert rest["asked"] == rest["before_cap"] == 3 * rest["seeds"]
    assert rest["distinct"] == 11
    assert filled["slots"] == filled["distinct"] == filled["asked"] == 2 * few["seeds"]
    assert retrieval["slots"] == sum(rule["slots"] for rule in retrieval["rules"])
    assert near["before_cap"] == 7 * (near["clusters"] - near["small_clusters"]) > 0
    assert unwanted["slots"] == unwanted["asked"] == 0 < unwanted["excluded"]
    assert near["asked"] == 7 * near["clusters"]
    assert capped["slots"] == 12 < capped["before_cap"] <= capped["asked"] == 9 * near["clusters"]
    assert again["before_cap"] == again["asked"] == 60 * again["clusters"] > again["slots"] == 100
    for rule in retrieval["rules"]:
        times = {int(often): images for often, images in rule["multiplicity"].items()}
        assert sum(times.values()) == rule["distinct"]
        assert sum(often * images for often, images in times.items()) == rule["slots"]


def test_a_rule_without_seeds_and_seeds_without_a_rule_are_remarks(run):
    remarks = json.loads(summary_path(run).read_text())["remarks"]
    why = "flat 2 (filter.min_std), undecodable 1 (decode)"
    assert f"rule gray: no seed of gray was left: {why}" in remarks
    assert "seeds of which no rule retrieves: unread" in remarks


def test_seeds_that_a_rule_lost_are_counted_by_reason(run):
    rows = pools.ledger(run)
    for rule in json.loads(summary_path(run).read_text())["retrieval"]["rules"]:
        of_set = [r for r in rows if r["source"] == rule["seed_set"] and r["role"] != "pool"]
        reasons = Counter(row["reason"] for row in of_set)
        assert rule["seeds"] == reasons.pop("seed", 0) + reasons.pop("reference", 0)
        assert rule["seeds_dropped"] == reasons


def test_a_seed_set_can_retrieve_without_being_exported(run):
    seeds = [row for row in pools.ledger(run) if row["role"] == "seed" and row["reason"] == "seed"]
    decisions = {(row["source"], row["decision"]) for row in seeds}
    assert decisions == {("few", "dropped"), ("rest", "kept")}
    summary = json.loads(summary_path(run).read_text())
    assert summary["seeds_not_exported"] == 4
    assert {"label": "used for retrieval only (seed)", "count": 4} in summary["funnel"]


def test_clusters_of_the_seeds_give_random_images_of_theirs(run):
    slots = read_table(slots_path(run)).to_pandas()
    stage = next(run.glob("curation/*-pool-clusters"))
    ids, labels = (np.load(stage / f"part-00000.{name}.npy") for name in ("ids", "labels-1"))
    seeds = np.load(next(run.glob("curation/*-seed-clusters/part-00000.clusters.npy")))
    num_seeds, sizes = (np.bincount(of, minlength=len(labels)) for of in (seeds, labels))
    near, capped = (slots[slots.rule == number] for number in (3, 5))
    for one, least in ((near, 7), (capped, 0)):
        np.testing.assert_array_equal(one.cluster, labels[np.searchsorted(ids, one.image_id)])
        drawn = one.groupby("cluster").image_id.count()
        chosen = np.flatnonzero((num_seeds >= 2) & (sizes >= least))
        assert drawn.index.tolist() == chosen.tolist()
        assert (drawn == np.minimum(sizes[chosen], 9 if least == 0 else 7)).all()
    assert near.granted.all()
    assert capped.granted.sum() == 12
    # Of one cluster, every rule draws in the same order.
    assert set(near.image_id) <= set(capped.image_id)


def test_the_ledger_names_the_first_rule_and_a_multiset_counts_its_slots(run):
    slots = read_table(slots_path(run)).to_pandas()
    slots = slots[slots.granted]
    rows = {row["image_id"]: row for row in pools.ledger(run)}
    retrieved = {i: row for i, row in rows.items() if row["reason"] == "retrieved"}
    assert retrieved.keys() == set(slots.image_id)
    first = slots.groupby("image_id").rule.min()
    copies = Counter(slots[slots.rule.isin([0, 3, 7])].image_id.tolist())
    for image_id, row in retrieved.items():
        assert row["rule"] == NAMES[first[image_id]]
        assert row["copies"] == max(copies[image_id], 1)
        source = rows[row["seed_id"]]["source"] if row["seed_id"] is not None else "drawn"
        assert source == {"few": "few", "rest": "rest", "filled": "few"}.get(row["rule"], "drawn")
    reasons = {row["reason"] for row in rows.values() if row["rule"]}
    assert reasons == {"retrieved", "excluded"}


def test_what_resembles_an_example_is_excluded_and_nothing_else(run):
    inputs = make_inputs("curation", STAGES, run, pools.recipe(sources(run, run), run))
    rows = pools.ledger(run)
    screened = read_screened(inputs)
    vectors = read_embeddings(inputs, "embed", np.arange(len(rows))).astype(np.float64)
    examples = (screened.role == ROLES.index("reference")) & (screened.reason < 0)
    nearest = (vectors @ vectors[examples].T).max(axis=1)
    reasons = np.array([row["reason"] for row in rows])
    assert (reasons == "excluded").any()
    assert (nearest[reasons == "excluded"] > 0.8 - 1e-6).all()
    assert (nearest[np.isin(reasons, ["retrieved", "not_retrieved"])] <= 0.8 + 1e-6).all()
    row = next(row for row in rows if row["reason"] == "excluded")
    sentence = explain(run, str(row["image_id"])).sentences[0]
    assert f"an example of what the rule unwanted excludes: similarity {row['similarity']:.4f}" in (
        sentence
    )


def test_the_shards_of_every_part_hold_its_images(run):
    parts = json.loads(parts_path(run).read_text())
    weights = {part["name"]: part["weight"] for part in parts}
    assert weights["few"] == 0.5
    rows = [row for row in pools.ledger(run) if row["decision"] == "kept"]
    images = Counter()
    for row in rows:
        part = row["rule"] or row["source"]
        assert row["out_shard"].rpartition("-")[0] == part
        images[part] += row["copies"]
    assert {part["name"]: part["images"] for part in parts} == images
    tars = [path for part in parts for path in run.glob(part["shards"])]
    assert sorted(tars) == sorted(run.glob("shards/*.tar"))


def test_a_training_takes_the_parts_by_the_name_of_the_run(run, tmp_path):
    out = tmp_path / "training"
    tiny = [f"model.{key}" for key in ("architecture=custom", "width=32", "depth=1", "heads=2")]
    tiny += [f"{head}.prototypes=32" for head in ("dino_head", "ibot_head")]
    tiny += [f"optimizer.{key}=null" for key in ("warmup", "freeze_last_layer")]
    tiny += ["teacher.temperature_warmup=null", "steps=2", "batch_size=4", "device=cpu"]
    changes = [f"data.parts=[{{run: '{run}'}}]", "data.paths=[]", f"out={out}"]
    assert main(["train", "cifar10_cpu", *tiny, *changes, "-q"]) == 0
    facts = json.loads((out / "run.json").read_text())
    published = json.loads(parts_path(run).read_text())
    images = {part["name"]: part["images"] for part in published}
    assert {part["name"]: part["images"] for part in facts["parts"]} == images
    assert facts["parents"] == [str(run)]


def test_a_decision_by_a_rule_is_explained(run):
    rows = pools.ledger(run)
    kept = next(row for row in rows if row["rule"] == "few")
    sentence = explain(run, str(kept["image_id"])).sentences[0]
    assert f"retrieved it by the rule {kept['rule']}: neighbor {kept['rank'] + 1} with" in sentence
    drawn = next(row for row in rows if row["rule"] == "near")
    assert drawn["score"] is drawn["rank"] is drawn["seed_id"] is None
    sentences = explain(run, str(drawn["image_id"])).sentences
    assert "the rule near drew it: " in sentences[0]
    assert "of its seeds are in cluster" in sentences[0]
    dropped = next(row for row in rows if row["reason"] == "not_retrieved")
    assert "no rule retrieved it" in explain(run, str(dropped["image_id"])).sentences[0]


def test_a_cap_and_a_policy_rerun_nothing_before_the_retrieval(run, pool, flat, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.glob("curation/*/*.done")}
    rules = [
        RULES[0] | {"policy": "distinct"},
        RULES[1] | {"cap": 9},
        *RULES[2:4],
        RULES[4] | {"threshold": 0.85},
        RULES[5] | {"cap": 0},
        *RULES[6:],
    ]
    more = f"retrieve.rules={json.dumps(rules)}"
    summary = pools.curated(
        pools.recipe(sources(pool.folder, flat), run, more, *KEYS), on_change="update"
    )
    again = {
        path for path, at in before.items() if not path.exists() or path.stat().st_mtime_ns > at
    }
    assert {path.parent.name for path in again} <= {"70-retrieve", "75-select", "80-export"}
    assert summary.retrieval["rules"][1]["distinct"] == 9


def test_the_report_shows_every_rule(run, tmp_path, capsys):
    assert main(["report", str(tmp_path / "report"), "--curation", str(run)]) == 0
    page = (tmp_path / "report/report.html").read_text()
    table = page.partition("Rules of the retrieval")[2].partition("</table>")[0]
    assert [name in table for name in NAMES] == [True] * 8


@pytest.mark.parametrize(
    ("rules", "more", "fault"),
    [
        (
            [{"seeds": "imagenet"}],
            (),
            "`imagenet`, which is no seed set .* or as_is are few, rest, unread, gray",
        ),
        ([{"seeds": "few", "weight": 0}], (), "the weight of every rule is 0"),
        ([{"seeds": "few"}, {"seeds": "few"}], (), "2 rules named `few`"),
        ([{"seeds": "few", "name": "a b"}], ("export.parts=true",), "shards after `a b`"),
        ([{"seeds": "few", "mode": "cluster"}], (), "give the number of clusters"),
        ([{"seeds": "few"}], ("retrieve.mode=none",), "set retrieve.mode=seeds"),
        ([{"seeds": "few"}], ("base=runs/a",), "curate all images in one run"),
        ([{"seeds": "few", "k": 9}], ("retrieve.candidates=8",), "or retrieve.k .9. or more"),
        ([{"seeds": "fews"}], (), "`fews`, which is no seed set .did you mean `few`."),
        ([{"seeds": "few", "mode": "exclude"}], (), "reference are unwanted"),
        ([{"seeds": "few", "per_cluster": 5}], (), "set mode: cluster"),
        ([{"seeds": "unwanted", "mode": "exclude", "k": 5}], (), "k` is not used .* set mode: sam"),
        ([{"seeds": "unwanted", "mode": "exclude", "weight": 2}], (), "mode: sample or cluster"),
        ([{"seeds": "few", "mode": "cluster", "policy": "fill"}], CLUSTERS, "no next neighbor"),
        ([{"seeds": "few", "name": "pool"}], ("export.parts=true",), "another source one part"),
        ([{"seeds": "unwanted", "mode": "exclude", "threshold": -1.1}], (), "give -1 to 1"),
        ([{"seeds": "few", "weight": float("nan")}], (), "weight` is nan - .* a finite number"),
        ([{"seeds": "few", "weight": -0.5}], (), "weight` is -0.5 - .* 0 or more"),
        ([{"seeds": "few", "cap": -1}], (), "cap` is -1 - .* 0 or more"),
        ([{"seeds": "few", "k": 0}], (), "k` is 0 - .* 1 or more"),
        ([{"seeds": "few", "mode": "clusters"}], (), "need sample . cluster . exclude"),
        (
            [{"seeds": "few", "mode": "cluster", "on_small_cluster": "replace"}],
            CLUSTERS,
            "give policy: multiset",
        ),
        ([{"seed": "few"}], (), "did you mean `retrieve.rules...seeds`"),
        ([{"seeds": "few"}], ("retrieve.drop_seeds=[rst]",), "no seed set .did you mean `rest`."),
    ],
)
def test_rules_without_meaning_are_a_fault_of_the_recipe(tmp_path, rules, more, fault):
    changes = [f"sources={json.dumps(sources(tmp_path, tmp_path))}", "retrieve.mode=seeds"]
    with pytest.raises(UsageError, match=fault) as refused:
        load_config(CurationConfig, None, [*changes, f"retrieve.rules={json.dumps(rules)}", *more])
    assert "\n" not in str(refused.value)
