"""All that a report states, from whichever runs are there."""

import json
import math
from collections import Counter
from typing import get_args, get_type_hints

import pytest

from dinoforge.evaluation.report.facts import METHODS, Sources, collect, plain
from dinoforge.records import Record
from dinoforge.training.config import TrainingConfig


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
    assert facts.method.startswith("DINOv2")
    assert facts.headline.k == 20


def test_every_method_is_described(project, tmp_path):
    assert set(METHODS) == set(get_args(get_type_hints(TrainingConfig)["method"]))
    for file in ("metrics.jsonl", "run.json"):
        (tmp_path / file).write_bytes((project["training"] / file).read_bytes())
    (tmp_path / "config.yaml").write_text("method: paws\nsupport: {classes: 10}\n")
    facts, _ = collect(Sources(training=tmp_path), "")
    assert facts.method.startswith("PAWS")


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
    result = plain({"record": record, 3: (1.5, -math.inf), "path": "x", "on": True})
    assert result["record"]["value"] is None
    assert result["record"]["interval"] is None
    assert (result["3"], result["on"]) == ([1.5, None], True)
    json.dumps(result, allow_nan=False)


def test_a_real_curation_is_reported_as_its_own_summary_shows_it(calm):
    facts, ledger = collect(Sources(curation=calm, training=None, evaluation=None), "")
    result, summary = facts.curation, facts.curation.summary
    assert (result.funnel.images, result.funnel.kept) == (summary["images"], summary["kept"])
    assert result.funnel.planted == summary["planted"] > 0
    reported = Counter()
    for counts in summary["roles"].values():
        reported.update(counts)
    steps = [*result.funnel.drops, *result.funnel.kept_as]
    assert {step.reason: step.images for step in steps} == reported
    assert {"undecodable", "exact_duplicate", "near_duplicate", "leak", "seed"} <= reported.keys()
    sheets = result.sheets
    assert sheets.num_leaks == summary["leaks"]["images"]
    leaks = sheets.leaks["reference"].above
    assert len(leaks) == summary["leaks"]["references"]["reference"]["hit_by"]
    for groups in (sheets.duplicates, sheets.misses, sheets.seeds, leaks):
        assert groups
        for shown in (image for group in groups for image in (group.head, *group.members)):
            assert ledger.picture(shown.image_id) is not None, shown.key
