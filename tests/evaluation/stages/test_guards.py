from dataclasses import replace

import pytest

from dinoforge.evaluation.stages.guards import find_warnings
from dinoforge.records import Record


def record(model, value, *, metric="mean_iou", interval=(0.0, 1.0), **settings):
    return Record(
        benchmark="segmentation/x",
        model=model,
        metric=metric,
        value=value,
        interval=interval,
        settings=settings,
    )


def test_a_network_below_a_baseline_is_a_failed_fit():
    base = record("majority per position", 0.169, baseline=True)
    (line,) = find_warnings([record("trained", 0.165), record("other", 0.3), base])
    assert "trained, 0.165, is no better than that of `majority per position`, 0.169" in line


def test_of_errors_the_lower_one_is_better():
    base = record("median per position", 1.13, metric="rmse", baseline=True)
    assert not list(find_warnings([record("trained", 0.9, metric="rmse"), base]))
    assert list(find_warnings([record("trained", 1.4, metric="rmse"), base]))


def test_metrics_without_intervals_are_not_compared():
    base = record("median per position", 0.4, metric="a1", interval=None, baseline=True)
    assert not list(find_warnings([record("trained", 0.3, metric="a1", interval=None), base]))


def test_not_a_number_is_not_better():
    base = record("majority class", 0.1, baseline=True)
    assert list(find_warnings([record("trained", float("nan")), base]))


def test_all_models_near_chance_are_a_sign_of_wrong_labels():
    weak = [
        record(name, 0.26, interval=(0.24, 0.28), chance=0.25) for name in ("trained", "untrained")
    ]
    (line,) = find_warnings(weak)
    assert "near chance, 0.25: check the labels" in line
    assert not list(find_warnings([*weak, record("sscd", 0.7, interval=(0.6, 0.8), chance=0.25)]))


def test_boxes_from_a_graph_without_information_are_arbitrary():
    facts = {"degenerate": 45, "share_linked": 1.0, "features": "LOST, keys"}
    (line,) = find_warnings([record("trained", 0.0, metric="corloc", **facts)])
    assert "LOST, keys of trained: on 45 of" in line
    assert "measure `discovery.features` keys_centered or tokens" in line
    # Compared with a baseline is what is not arbitrary.
    base = record("center box", 0.2, metric="corloc", baseline=True)
    some = [replace(record("trained", 0.0, metric="corloc", **facts), n=n) for n in (45, 100)]
    assert len(list(find_warnings([some[0], base]))) == 1
    assert len(list(find_warnings([some[1], base]))) == 2


def test_objects_smaller_than_a_patch_are_named_once():
    facts = {"vanished": {"goat": [2, 3]}}
    some = [record("trained", 0.3, metric=metric, **facts) for metric in ("J&F", "J")]
    (line,) = find_warnings(some)
    assert "no patch of the first frame of goat has the objects 2, 3" in line
    assert not list(find_warnings([record("color", 0.3, metric="J&F", baseline=True, **facts)]))


@pytest.mark.parametrize("metric", ["J_decay", "F_recall"])
def test_what_stands_beside_j_and_f_is_not_compared_with_a_baseline(metric):
    base = record("copied mask", 0.2, metric=metric, baseline=True)
    assert not list(find_warnings([record("trained", 0.1, metric=metric), base]))


def test_only_what_was_fitted_has_a_learning_rate_to_change():
    base = record("color and position", 0.3, baseline=True)
    (fitted,) = find_warnings([record("trained", 0.2, lr=0.001), base])
    (free,) = find_warnings([record("trained", 0.2), base])
    assert "try a larger learning rate" in fitted
    assert free.endswith("the features carry less information")
