from dinoforge.evaluation.stages.guards import find_warnings
from dinoforge.records import Record


def record(model, value, *, metric="mean_iou", interval=None, **settings):
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
