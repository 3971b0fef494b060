"""Retrieval by rules: the slots of every seed set, caps, both counts, what the recipe refuses."""

import json
from collections import Counter

import numpy as np
import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.config import load_config
from dinoforge.curated import slots_path, summary_path
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.explain import explain
from dinoforge.errors import UsageError
from dinoforge.tables import read_table

RULES = [
    {"seeds": "few", "k": 5, "policy": "multiset", "weight": 0.5},
    {"seeds": "rest", "k": 3, "cap": 11},
    {"seeds": "few", "name": "filled", "k": 2, "policy": "fill"},
]


def sources(folder):
    return [
        {"role": "seed", "name": "few", "paths": [str(folder / "seeds")], "limit": 4},
        {"role": "seed", "name": "rest", "paths": [str(folder / "seeds")]},
        {"role": "pool", "paths": [str(folder / "pool")]},
    ]


@pytest.fixture(scope="module")
def run(pool, tmp_path_factory):
    """A run of three rules for two seed sets."""
    run = tmp_path_factory.mktemp("rules") / "run"
    pools.curated(pools.recipe(sources(pool.folder), run, f"retrieve.rules={json.dumps(RULES)}"))
    return run


def test_every_rule_has_its_slots_caps_and_both_counts(run):
    retrieval = json.loads(summary_path(run).read_text())["retrieval"]
    few, rest, filled = retrieval["rules"]
    assert (few["asked"], few["before_cap"], few["slots"]) == (5 * few["seeds"],) * 3
    assert rest["asked"] == rest["before_cap"] == 3 * rest["seeds"]
    assert rest["distinct"] == 11
    assert filled["slots"] == filled["distinct"] == filled["asked"] == 2 * few["seeds"]
    assert retrieval["slots"] == few["slots"] + rest["slots"] + filled["slots"]
    for rule in retrieval["rules"]:
        times = {int(often): images for often, images in rule["multiplicity"].items()}
        assert sum(times.values()) == rule["distinct"]
        assert sum(often * images for often, images in times.items()) == rule["slots"]


def test_the_ledger_names_the_first_rule_and_a_multiset_counts_its_slots(run):
    slots = read_table(slots_path(run)).to_pandas()
    slots = slots[slots.granted]
    rows = {row["image_id"]: row for row in pools.ledger(run)}
    retrieved = {i: row for i, row in rows.items() if row["reason"] == "retrieved"}
    assert retrieved.keys() == set(slots.image_id)
    names = np.array(["few", "rest", "filled"])
    first = slots.groupby("image_id").rule.min()
    copies = Counter(slots[slots.rule == 0].image_id.tolist())
    for image_id, row in retrieved.items():
        assert row["rule"] == names[first[image_id]]
        assert row["copies"] == max(copies[image_id], 1)
        assert rows[row["seed_id"]]["source"] == ("rest" if row["rule"] == "rest" else "few")
    assert all(row["rule"] is None for row in rows.values() if row["reason"] != "retrieved")


def test_a_decision_by_a_rule_is_explained(run):
    rows = pools.ledger(run)
    kept = next(row for row in rows if row["reason"] == "retrieved")
    sentence = explain(run, str(kept["image_id"])).sentences[0]
    assert f"retrieved it by the rule {kept['rule']}: neighbor {kept['rank'] + 1} with" in sentence
    dropped = next(row for row in rows if row["reason"] == "not_retrieved")
    assert "no rule retrieved it" in explain(run, str(dropped["image_id"])).sentences[0]


def test_a_cap_and_a_policy_rerun_nothing_before_the_retrieval(run, pool):
    before = {path: path.stat().st_mtime_ns for path in run.glob("curation/*/*.done")}
    rules = [RULES[0] | {"policy": "distinct"}, RULES[1] | {"cap": 9}, RULES[2]]
    more = f"retrieve.rules={json.dumps(rules)}"
    summary = pools.curated(pools.recipe(sources(pool.folder), run, more), on_change="update")
    again = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert {path.parent.name for path in again} <= {"70-retrieve", "75-select", "80-export"}
    assert summary.retrieval["rules"][1]["distinct"] == 9


def test_the_report_shows_every_rule(run, tmp_path, capsys):
    assert main(["report", str(tmp_path / "report"), "--curation", str(run)]) == 0
    page = (tmp_path / "report/report.html").read_text()
    table = page.partition("Rules of the retrieval")[2].partition("</table>")[0]
    assert [name in table for name in ("few", "rest", "filled")] == [True] * 3


@pytest.mark.parametrize(
    ("rules", "more", "fault"),
    [
        ([{"seeds": "imagenet"}], (), "`imagenet`, which is no seed set .* seed are few, rest"),
        ([{"seeds": "few", "weight": 0}], (), "the weight of every rule is 0"),
        ([{"seeds": "few"}, {"seeds": "few"}], (), "2 rules named `few`"),
        ([{"seeds": "few"}], ("retrieve.mode=none",), "set retrieve.mode=seeds"),
        ([{"seeds": "few"}], ("base=runs/a",), "curate all images in one run"),
        ([{"seeds": "few", "k": 9}], ("retrieve.candidates=8",), "or retrieve.k .9. or more"),
    ],
)
def test_rules_without_meaning_are_a_fault_of_the_recipe(tmp_path, rules, more, fault):
    changes = [f"sources={json.dumps(sources(tmp_path))}", "retrieve.mode=seeds"]
    with pytest.raises(UsageError, match=fault) as refused:
        load_config(CurationConfig, None, [*changes, f"retrieve.rules={json.dumps(rules)}", *more])
    assert "\n" not in str(refused.value)
