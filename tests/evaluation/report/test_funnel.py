"""The funnel: every image leaves for one reason, and the counts add up."""

import pytest

from dinoforge.curated import REASONS
from dinoforge.evaluation.report.ledger import make_funnel, read_ledger


@pytest.fixture(scope="module")
def ledger(project):
    return read_ledger(project["curation"])


@pytest.fixture(scope="module")
def funnel(ledger):
    return make_funnel(ledger)


def test_drops_take_all_but_the_kept(funnel, ledger):
    assert funnel.images == len(ledger)
    assert funnel.images - sum(step.images for step in funnel.drops) == funnel.kept
    left = funnel.images
    for step in funnel.drops:
        left -= step.images
        assert step.left == left
    assert sum(step.images for step in funnel.kept_as) == funnel.kept
    assert sum(funnel.roles.values()) == funnel.images


def test_counts_are_those_of_the_decisions(funnel):
    assert {step.reason: step.images for step in funnel.drops} == {
        "undecodable": 3,
        "too_small": 1,
        "reference": 4,
        "exact_duplicate": 5,
        "near_duplicate": 15,
        "leak": 4,
        "not_retrieved": 16,
    }
    assert {step.reason: step.images for step in funnel.kept_as} == {"seed": 6, "retrieved": 24}
    assert funnel.planted == 15


def test_reasons_stand_in_the_order_in_which_the_curation_decides(funnel):
    for steps in (funnel.drops, funnel.kept_as):
        order = [REASONS.index(step.reason) for step in steps]
        assert order == sorted(order)


def test_every_reason_of_the_curation_has_a_label_of_its_own(ledger):
    reasons = ledger["reason"].copy()
    ledger = type(ledger)({**ledger.columns, "reason": reasons}, ledger.run_folder)
    ledger.columns["decision"] = ledger["decision"].copy()
    for at, reason in enumerate(REASONS):
        reasons[at] = reason
        ledger.columns["decision"][at] = "dropped"
    labels = [step.label for step in make_funnel(ledger).drops]
    assert len(set(labels)) == len(REASONS)
    assert not any("_" in label for label in labels)


def test_causes_are_counted_largest_first_and_sum_to_their_reason(funnel):
    parts = {step.reason: step.parts for step in funnel.drops}
    assert parts["undecodable"] == [("truncated", 2), ("not an image", 1)]
    assert parts["exact_duplicate"] == [("same bytes", 5)]
    assert parts["too_small"] == []


def test_dropped_seeds_are_not_called_kept(ledger):
    decision = ledger["decision"].copy()
    decision[ledger["reason"] == "seed"] = "dropped"
    changed = type(ledger)({**ledger.columns, "decision": decision}, ledger.run_folder)
    (step,) = [step for step in make_funnel(changed).drops if step.reason == "seed"]
    assert step.label == "seeds (used for retrieval only)"
