import numpy as np
import pytest

from dinoforge.evaluation.config import BootstrapConfig
from dinoforge.evaluation.outcomes import Outcome, with_intervals
from dinoforge.records import Record

FEW = BootstrapConfig(resamples=200, pooled_resamples=100)


def outcome(model, features, right, *, k=20, benchmark="knn/x"):
    settings = {"features": features} | ({} if k is None else {"k": k})
    values = np.array(right, np.int8)
    record = Record(
        benchmark=benchmark,
        model=model,
        metric="accuracy",
        value=float(values.mean()),
        n=len(values),
        settings=settings,
    )
    return Outcome(record, values)


def differences(outcomes):
    return with_intervals(outcomes, FEW)[len(outcomes) :]


def pairs(result):
    names = ("model_b", "features_a", "features_b", "k")
    return [tuple(record.settings.get(name) for name in names) for record in result]


def test_a_difference_names_both_and_counts_both_ways():
    a = outcome("trained", "cls", [1, 1, 1, 0, 1])
    b = outcome("untrained", "cls", [1, 0, 0, 1, 1])
    (record,) = differences([a, b])
    assert record.model == "trained - untrained"
    assert record.metric == "accuracy_difference"
    assert record.benchmark == "knn/x"
    assert record.value == pytest.approx(0.2)
    assert record.settings == {
        "model_a": "trained",
        "model_b": "untrained",
        "features_a": "cls",
        "features_b": "cls",
        "k": 20,
        "wins": 2,
        "losses": 1,
        "mcnemar_p": 1.0,
    }


def test_like_is_compared_with_like_and_at_the_headline_best_with_best():
    result = differences(
        [
            *(outcome("trained", "cls", [1, 0, 0], k=k) for k in (10, 20)),
            *(outcome("trained", "both", [1, 1, 0], k=k) for k in (10, 20)),
            *(outcome("untrained", "cls", [1, 0, 0], k=k) for k in (10, 20)),
            *(outcome("untrained", "both", [0, 0, 0], k=k) for k in (10, 20)),
        ]
    )
    assert pairs(result) == [
        ("untrained", "cls", "cls", 10),
        ("untrained", "cls", "cls", 20),
        ("untrained", "both", "both", 10),
        ("untrained", "both", "both", 20),
        ("untrained", "both", "cls", 20),
    ]
    assert [r.selection for r in result] == ["none"] * 4 + ["test-peek"]


def test_every_kind_is_compared_with_the_only_kind_of_a_baseline():
    result = differences(
        [
            outcome("trained", "cls", [1, 0]),
            outcome("trained", "both", [1, 1]),
            outcome("pixels", "pixels", [0, 0]),
        ]
    )
    assert pairs(result) == [("pixels", "cls", "pixels", 20), ("pixels", "both", "pixels", 20)]


def test_the_headline_takes_the_nearest_k_that_was_measured():
    result = differences(
        [
            outcome("trained", "cls", [1, 0], k=7),
            outcome("trained", "both", [1, 1], k=7),
            outcome("untrained", "cls", [1, 0], k=7),
            outcome("untrained", "both", [0, 0], k=7),
        ]
    )
    assert pairs(result)[-1] == ("untrained", "both", "cls", 7)


def test_protocols_are_not_mixed():
    result = differences(
        [
            outcome("trained", "cls", [1, 0]),
            outcome("trained", "cls", [1, 1], k=None, benchmark="logistic/x"),
            outcome("untrained", "cls", [1, 0]),
            outcome("untrained", "cls", [0, 0], k=None, benchmark="logistic/x"),
        ]
    )
    assert [(r.benchmark, r.value) for r in result] == [("knn/x", 0.0), ("logistic/x", 1.0)]
    assert "k" not in result[1].settings


def test_nothing_is_compared_without_a_trained_model():
    assert differences([outcome("pixels", "pixels", [1]), outcome("other", "other", [0])]) == []


def test_intervals_hold_their_values():
    right = np.arange(60) % 3 > 0
    a, b = outcome("trained", "cls", right), outcome("untrained", "cls", ~right)
    records = with_intervals([a, b], FEW)
    assert [record.n for record in records] == [60, 60, 60]
    for record in records:
        low, high = record.interval
        assert low < record.value < high
    # The two are complements, and share their resamples.
    assert records[0].interval[0] == pytest.approx(1 - records[1].interval[1], abs=1e-12)


def test_all_right_and_all_wrong_have_intervals_of_some_width():
    records = with_intervals(
        [outcome("trained", "cls", [1] * 30), outcome("untrained", "cls", [0] * 30)], FEW
    )
    assert records[0].interval[0] == pytest.approx(0.886, abs=1e-3)
    assert records[0].interval[1] == 1.0
    assert records[1].interval == pytest.approx((0.0, 0.114), abs=1e-3)


def test_no_outcomes_no_records():
    assert with_intervals([], FEW) == []


def test_resamples_without_a_positive_unit_are_left_out_and_counted():
    # Of two queries only one has a true pair: a quarter of the resamples has none.
    values = np.array([[1.0, 2.0], [0.0, 0.0]])
    record = Record(benchmark="copies/x", model="trained", metric="recall", value=0.5, n=2)
    (result,) = with_intervals([Outcome(record, values, "ratio")], FEW)
    assert result.interval == (0.5, 0.5)
    assert 5 < result.settings["undefined_resamples"] < 60
    (result,) = with_intervals([Outcome(record, 0 * values, "ratio")], FEW)
    assert result.interval is None
