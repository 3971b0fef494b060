"""Findings in sentences: the numbers of the records, rounded once, and no adjectives."""

from dataclasses import replace

import pytest

from dinoforge.evaluation.report.ledger import make_funnel, read_ledger
from dinoforge.evaluation.report.page import (
    difference_text,
    feature_name,
    interval_text,
    lead,
    model_name,
)
from dinoforge.evaluation.scores import headline

SPACE = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def funnel(project):
    return make_funnel(read_ledger(project["curation"]))


def test_the_lead_states_what_went_in_what_came_out_and_what_it_is_good_for(funnel, records):
    text = lead(funnel, headline(records))
    assert text.startswith(
        "78 images went in and 30 were kept; k-NN (k = 20) on the features of a network tr"
    )
    assert (
        f"trained on them classifies 74.1{SPACE}% of 800 test images correctly, 17.8 points" in text
    )
    assert "17.8 points above the same network untrained" in text
    assert "14.3 points above raw pixels" in text
    assert text.endswith(".")


def test_a_report_of_scores_alone_does_not_mention_curated_images(records):
    text = lead(None, headline(records))
    assert text.startswith("k-NN (k = 20) on the features of the trained network classifies 74.1")


def test_without_anything_there_is_no_sentence():
    assert lead(None, None) == ""


def test_a_difference_whose_interval_holds_zero_is_not_called_above(records):
    unclear = [
        replace(r, value=0.011, interval=(-0.02, 0.04)) if "difference" in r.metric else r
        for r in records
    ]
    text = lead(None, headline(unclear))
    assert "not clearly different from raw pixels (+1.1 points" in text
    assert " above " not in text


def test_lower_is_called_below(records):
    worse = [
        replace(r, value=-0.05, interval=(-0.08, -0.02)) if "difference" in r.metric else r
        for r in records
    ]
    assert "5.0 points below raw pixels" in lead(None, headline(worse))


def test_three_comparisons_are_a_list(records):
    """Another baseline, of one kind of features that is called like it."""
    more = []
    for record in records:
        if record.model in {"pixels", "trained - pixels"}:
            other = replace(record, model=record.model.replace("pixels", "pixels_less_mean"))
            settings = record.settings | {"features": "pixels_less_mean"}
            if record.metric == "accuracy_difference":
                names = {"model_b": "pixels_less_mean", "features_b": "pixels_less_mean"}
                settings = record.settings | names
            more.append(replace(other, settings=settings))
    text = lead(None, headline([*records, *more]))
    assert "above the same network untrained, 14.3 points above raw pixels and 14.3" in text
    assert text.endswith("above pixels minus the mean of the bank.")


def test_intervals_are_in_percent_and_those_of_differences_in_points(records):
    (accuracy,) = [
        r
        for r in records
        if (r.model, r.metric) == ("pixels", "accuracy") and r.settings["k"] == 20
    ]
    assert interval_text(accuracy) == f"56.7 to 62.7{SPACE}%"
    difference = replace(accuracy, value=0.178, interval=(0.144, 0.211))
    assert difference_text(difference) == f"+17.8 points, 95{SPACE}% interval +14.4 to +21.1"
    assert interval_text(replace(accuracy, interval=None)) == "no interval"


def test_names_of_models_and_features_in_words():
    assert (model_name("pixels"), model_name("trained")) == ("raw pixels", "trained")
    assert feature_name("cls") == "class token"
    assert feature_name("pixels") == ""
    assert feature_name("mine", "mine") == ""
    assert model_name("pixels_less_mean") == "pixels minus mean"
    assert feature_name("of_my_own") == "of my own"
