"""All that a report says, from whichever runs are there."""

import json
import math
from collections import Counter

import pytest

from dinoforge.evaluation.report.facts import Sources, collect, plain
from dinoforge.records import Record


def test_everything_of_three_runs(project, records):
    facts, ledger = collect(Sources(**project), "Three runs")
    assert facts.title == "Three runs"
    assert facts.records == records
    assert [run.kind for run in facts.runs] == ["curation", "training", "evaluation"]
    assert facts.curation.funnel.images == len(ledger) == 78
    assert facts.curation.sheets.threshold == 0.95
    assert facts.curation.sheets.floor == 0.85
    assert facts.curation.summary["check"]["planted"] == 16
    assert facts.curves.steps == 1500
    assert facts.headline.k == 20


@pytest.mark.parametrize("kind", ["curation", "training", "evaluation"])
def test_one_run_alone(project, kind):
    given = dict.fromkeys(project) | {kind: project[kind]}
    facts, ledger = collect(Sources(**given), "")
    assert facts.title == "dinoforge report"
    assert [run.kind for run in facts.runs] == [kind]
    assert (facts.curation is not None) == (ledger is not None) == (kind == "curation")
    assert (facts.curves is not None) == (kind == "training")
    assert bool(facts.records) == (facts.headline is not None) == (kind == "evaluation")


def test_runs_that_have_not_got_so_far_are_empty(tmp_path):
    folders = {"curation": tmp_path, "training": tmp_path, "evaluation": tmp_path}
    facts, ledger = collect(Sources(**folders), "")
    assert (facts.curation, facts.curves, facts.headline, ledger) == (None, None, None, None)
    assert (facts.records, facts.runs) == ([], [])


def test_facts_become_json_without_numbers_that_json_has_not():
    record = Record(benchmark="b", model="m", metric="x", value=math.nan, interval=(0.0, math.inf))
    found = plain({"record": record, 3: (1.5, -math.inf), "path": "x", "on": True})
    assert found["record"]["value"] is None
    assert found["record"]["interval"] is None
    assert (found["3"], found["on"]) == ([1.5, None], True)
    json.dumps(found, allow_nan=False)


def test_a_real_curation_is_told_as_its_own_summary_tells_it(calm):
    facts, ledger = collect(Sources(curation=calm, training=None, evaluation=None), "")
    found, summary = facts.curation, facts.curation.summary
    assert (found.funnel.images, found.funnel.kept) == (summary["images"], summary["kept"])
    assert found.funnel.planted == summary["planted"] > 0
    told = Counter()
    for counts in summary["roles"].values():
        told.update(counts)
    steps = [*found.funnel.drops, *found.funnel.kept_as]
    assert {step.reason: step.images for step in steps} == told
    assert {"undecodable", "exact_duplicate", "near_duplicate", "leak", "seed"} <= told.keys()
    sheets = found.sheets
    assert sheets.num_leaks == summary["leaks"]["images"]
    for groups in (sheets.duplicates, sheets.misses, sheets.seeds, sheets.leaks):
        assert groups
        for shown in (image for group in groups for image in (group.head, *group.members)):
            assert ledger.picture(shown.image_id) is not None, shown.key
