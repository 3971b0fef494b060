import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.compare.cells import Numbers
from dinoforge.evaluation.compare.columns import Chosen
from dinoforge.evaluation.compare.comparison import Column
from dinoforge.evaluation.compare.models import ModelRuns
from dinoforge.evaluation.compare.paired import bootstrap, holm, unpaired_interval
from dinoforge.evaluation.compare.significance import find_differences
from dinoforge.evaluation.compare.sources import Measurement
from dinoforge.evaluation.compare.values import Unitwise
from dinoforge.evaluation.config import BootstrapConfig
from dinoforge.evaluation.outcomes import Outcome, with_intervals
from dinoforge.intervals import mcnemar_exact
from dinoforge.records import Record

CONFIG = BootstrapConfig(resamples=400, pooled_resamples=200)


def unitwise(values, rule="mean", model="trained"):
    value = combine(rule, values)
    record = Record(benchmark="knn/x", model=model, metric="accuracy", value=value, n=len(values))
    return Unitwise(Outcome(record, values, rule, np.arange(len(values))), np.arange(len(values)))


def test_holm_by_hand():
    # Sorted: .01 x 4, .02 x 3, .03 x 2 -> at least .06, .04 x 1 -> at least .06.
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("rule", ["mean", "ratio", "mean_iou"])
def test_differences_are_those_of_one_evaluation(rule):
    rng = np.random.default_rng(3)
    some = {
        "mean": lambda: rng.random(30),
        "ratio": lambda: np.stack([rng.random(30), np.ones(30)], axis=1),
        "mean_iou": lambda: rng.integers(1, 50, (30, 1, 3, 4)).astype(np.float64),
    }[rule]
    a, b = unitwise(some(), rule), unitwise(some(), rule, "other")
    *_, record = with_intervals([a.outcome, b.outcome], CONFIG)
    (tested,) = bootstrap([([a], [b])], CONFIG)
    assert tested.value == pytest.approx(record.value)
    assert tested.interval == pytest.approx(record.interval)
    assert tested.units == 30


def test_p_of_right_and_wrong_is_mcnemars_and_else_of_the_bootstrap():
    rng = np.random.default_rng(0)
    a, b = (unitwise((rng.random(40) < share).astype(np.int8)) for share in (0.8, 0.4))
    d = a.outcome.values - b.outcome.values
    (tested,) = bootstrap([([a], [b])], CONFIG)
    assert tested.p == mcnemar_exact(int((d > 0).sum()), int((d < 0).sum()))
    a, b = unitwise(np.linspace(0, 1, 40)), unitwise(np.linspace(0, 1, 40)[::-1] * 0.9)
    (tested,) = bootstrap([([a], [b])], CONFIG)
    indices = np.concatenate(list(_indices(40)))
    drawn = (a.outcome.values - b.outcome.values)[indices].mean(axis=1)
    assert tested.p == 2 * (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / 401


def _indices(n):
    from dinoforge.intervals import bootstrap_indices

    return bootstrap_indices(n, CONFIG.resamples, CONFIG.seed)


def test_few_units_that_agree_prove_nothing():
    a, b = unitwise(np.array([0.9, 0.8, 0.9])), unitwise(np.array([0.1, 0.3, 0.2]))
    (tested,) = bootstrap([([a], [b])], CONFIG)
    assert tested.interval[0] > 0
    assert tested.p == 0.25  # three signs


def test_seeds_are_averaged_in_every_resample():
    rng = np.random.default_rng(1)
    ratios = [np.stack([rng.random(25), rng.integers(1, 3, 25)], axis=1) for _ in range(3)]
    a = [unitwise(values, "ratio") for values in ratios[:2]]
    b = [unitwise(ratios[2], "ratio")]
    (tested,) = bootstrap([(a, b)], CONFIG)
    numbers = [combine("ratio", values) for values in ratios]
    assert tested.value == pytest.approx((numbers[0] + numbers[1]) / 2 - numbers[2])
    assert tested.interval[0] < tested.value < tested.interval[1]


def test_the_unpaired_interval_by_hand():
    low, high = unpaired_interval(0.8, (0.7, 0.85), 0.6, (0.56, 0.63))
    assert low == pytest.approx(0.2 - math.sqrt(0.1**2 + 0.03**2))
    assert high == pytest.approx(0.2 + math.sqrt(0.05**2 + 0.04**2))


def numbers_of(columns, direction="higher"):
    """Numbers of models of whose every column the values per unit are given."""
    samples, chosen = {}, []
    for at, rows in enumerate(columns):
        chosen.append([])
        for row, values in enumerate(rows):
            sample = unitwise(values)
            samples[row, at] = [sample]
            measurement = Measurement(sample.outcome.record, "run", Path("/nowhere"))
            chosen[-1].append(Chosen([measurement], [0], 1))
    models = [ModelRuns(str(row), [], [], is_trained=True) for row in range(len(columns[0]))]
    described = Column(benchmark="knn/x", metric="accuracy", n=1, data="", direction=direction)
    numbers = Numbers(models, [described] * len(columns), chosen)
    numbers.__dict__["samples"] = samples  # else read from disk
    return numbers


_RIGHT = st.lists(st.integers(0, 1), min_size=24, max_size=24)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(_RIGHT, min_size=3, max_size=3), min_size=1, max_size=3),
    st.sampled_from(["higher", "lower"]),
    st.booleans(),
)
def test_nothing_is_bold_whose_interval_contains_0(columns, direction, as_floats):
    kind = np.float64 if as_floats else np.int8
    arrays = [[np.array(values, kind) for values in rows] for rows in columns]
    numbers = numbers_of(arrays, direction)
    cells, differences = find_differences(numbers, 0, lambda _: None)
    for row in differences:
        for difference in filter(None, row):
            low, high = difference.interval
            assert low <= difference.value <= high
            if low <= 0 <= high:
                assert not difference.is_clear
            assert difference.holm_p >= difference.p
    for at, rows in enumerate(arrays):
        values = [rows[n].mean() for n in range(3)]
        best = max(values) if direction == "higher" else min(values)
        bold = [row for row in range(3) if cells[row][at].is_bold]
        assert len(bold) <= 1
        for row in bold:
            assert values[row] == best
            assert values.count(best) == 1
            others = [n for n in range(3) if n != row]
            tested = bootstrap(
                [(numbers.samples[row, at], numbers.samples[n, at]) for n in others],
                BootstrapConfig(),
            )
            assert all(low > 0 or high < 0 for low, high in (t.interval for t in tested))
            assert max(holm([t.p for t in tested])) < 0.05


def test_the_clearly_best_is_bold_and_a_tie_is_not():
    good, bad = np.ones(24, np.int8), np.zeros(24, np.int8)
    cells, _ = find_differences(numbers_of([[good, bad, bad]]), 1, lambda _: None)
    assert [row[0].is_bold for row in cells] == [True, False, False]
    cells, _ = find_differences(numbers_of([[good, good, bad]]), 1, lambda _: None)
    assert [row[0].is_bold for row in cells] == [False, False, False]
    cells, _ = find_differences(numbers_of([[good, bad]], "lower"), None, lambda _: None)
    assert [row[0].is_bold for row in cells] == [False, True]


def test_too_few_resamples_for_so_many_tests_are_noted():
    good, bad = np.linspace(0.5, 1, 24), np.linspace(0, 0.4, 24)
    for count, is_noted in ((2, False), (3, True)):  # Holm: 3 x 2 / 101 > 0.05
        numbers, notes = numbers_of([[good, bad]] * count), []
        numbers.__dict__["bootstrap_config"] = lambda _: BootstrapConfig(resamples=100)
        _, differences = find_differences(numbers, 0, notes.append)
        assert [d.p for d in differences[1]] == [2 / 101] * count
        assert any("bootstrap.resamples" in line for line in notes) == is_noted
