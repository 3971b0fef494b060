"""Records arranged: tables, differences and the headline hold the records themselves."""

from dataclasses import replace

import pytest

from dinoforge.evaluation.scores import arrange, headline, headline_k, step_of
from dinoforge.records import Record


@pytest.fixture(scope="module")
def scores(records):
    return arrange(records)


def accuracy(model="trained", k=20, value=0.5, *, features="cls", step=None, **facts):
    settings = {"k": k, "features": features} | ({} if step is None else {"step": step})
    return Record(
        benchmark="knn/example",
        model=model,
        metric="accuracy",
        value=value,
        n=100,
        settings=settings,
        **facts,
    )


def test_every_record_is_in_a_table_or_a_difference_once(scores, records):
    cells = [
        cell
        for table in (*scores.tables, *scores.plain)
        for row in table.rows
        for cell in row.cells
        if cell is not None
    ]
    placed = [*cells, *(difference.record for difference in scores.differences)]
    assert sorted(map(repr, placed)) == sorted(map(repr, records))


def test_a_table_has_a_row_a_model_and_kind_of_features_and_a_column_a_k(scores):
    (table,) = scores.tables
    assert (table.benchmark, table.column_name, table.n) == ("knn/example", "k", 800)
    assert table.columns == ["10", "20", "100", "200"]
    assert [(row.model, row.features) for row in table.rows] == [
        *(("trained", kind) for kind in ("cls", "patch_mean", "both")),
        *(("untrained", kind) for kind in ("cls", "patch_mean", "both")),
        ("pixels", "pixels"),
    ]
    for row in table.rows:
        assert [cell.settings["k"] for cell in row.cells] == [10, 20, 100, 200]


def test_what_was_not_measured_is_an_empty_cell(records):
    fewer = [r for r in records if not (r.model == "pixels" and r.settings["k"] == 200)]
    row = arrange(fewer).tables[0].rows[-1]
    assert [cell is None for cell in row.cells] == [False, False, False, True]


def test_a_protocol_without_k_has_one_column():
    record = replace(accuracy(), benchmark="logistic/example", settings={"features": "cls", "C": 1})
    (table,) = arrange([record]).tables
    assert (table.column_name, table.columns) == ("", ["accuracy"])
    assert table.rows[0].cells == [record]


def test_models_that_nobody_expected_come_last_in_their_own_order():
    names = ["zeta", "pixels", "alpha", "trained"]
    (table,) = arrange([accuracy(name) for name in names]).tables
    assert [row.model for row in table.rows] == ["trained", "pixels", "zeta", "alpha"]


def test_metrics_without_labels_are_columns_of_their_own(scores):
    (table,) = scores.plain
    assert table.columns == ["rankme", "feature_std"]
    assert {row.model for row in table.rows} == {"trained", "untrained"}


def test_the_headline_takes_the_best_kind_of_each_model_at_twenty_neighbors(records):
    result = headline(records)
    assert (result.benchmark, result.k) == ("knn/example", 20)
    assert [(r.model, r.settings["features"]) for r in result.best] == [
        ("trained", "patch_mean"),
        ("untrained", "patch_mean"),
        ("pixels", "pixels"),
    ]
    for record in result.best:
        others = [r.value for r in records if r.metric == "accuracy" and r.model == record.model]
        assert record.value == max(others)
    assert [(d.model_b, d.features_a, d.k) for d in result.differences] == [
        ("untrained", "patch_mean", 20),
        ("pixels", "patch_mean", 20),
    ]


@pytest.mark.parametrize(
    ("measured", "chosen"), [([10, 100], 10), ([15, 25], 15), ([200], 200), ([5, 21, 30], 21)]
)
def test_without_twenty_neighbors_the_headline_takes_the_nearest_number(measured, chosen):
    records = [accuracy(k=k, step=step) for k in measured for step in (50, 100)]
    assert headline(records).k == chosen
    scores = arrange(records)
    assert scores.k == chosen
    assert [score.settings["k"] for score in scores.checkpoints["knn/example"]["cls"]] == [
        chosen
    ] * 2


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [
        ([10, 20, 100], 20),
        ([10, 100], 10),
        ([25, 15], 15),
        ([None, 200, None], 200),
        ([None], None),
        ([], None),
    ],
)
def test_headlines_speak_of_the_k_nearest_to_twenty(measured, chosen):
    assert headline_k((k, 1000) for k in measured) == chosen


def test_a_headline_avoids_k_above_half_of_the_bank():
    assert headline_k((k, 12) for k in (1, 5, 10)) == 5
    assert headline_k((k, 40) for k in (10, 20)) == 20
    assert headline_k((k, 30) for k in (10, 20)) == 10
    assert headline_k([(2, 2)]) == 2


def test_without_nearest_neighbors_there_is_no_headline():
    assert headline([]) is None
    assert headline([replace(accuracy(), benchmark="logistic/example")]) is None


def test_a_difference_is_clear_when_its_interval_leaves_out_zero(scores):
    assert all(difference.is_clear for difference in scores.differences)
    for interval, is_clear in (((-0.01, 0.02), False), ((-0.2, -0.1), True), (None, False)):
        one = replace(scores.differences[0].record, interval=interval)
        assert arrange([one]).differences[0].is_clear is is_clear


def test_a_difference_over_a_handful_of_images_is_not_clear(scores):
    record = replace(scores.differences[0].record, interval=(0.25, 1.0))
    for p, is_clear in ((0.25, False), (0.03, True)):
        one = replace(record, settings=record.settings | {"mcnemar_p": p})
        assert arrange([one]).differences[0].is_clear is is_clear


def test_tables_and_headline_are_of_the_newest_step_and_the_curve_of_all():
    records = [
        accuracy(step=100, value=0.4),
        accuracy("untrained", step=0, value=0.3),
        accuracy(step=50, value=0.6),
        accuracy("pixels", value=0.35),
    ]
    scores = arrange(records)
    shown = {row.model: row.cells[0].value for row in scores.tables[0].rows}
    assert shown == {"trained": 0.4, "untrained": 0.3, "pixels": 0.35}
    assert [r.value for r in headline(records).best] == [0.4, 0.3, 0.35]
    curve = [(step_of(score), score.value) for score in scores.checkpoints["knn/example"]["cls"]]
    assert curve == [(50, 0.6), (100, 0.4)]


def test_each_benchmark_has_its_own_newest_step_and_its_own_curve():
    other = [replace(accuracy(step=s, value=0.2), benchmark="knn/other") for s in (50, 100, 150)]
    scores = arrange([accuracy(step=50, value=0.1), accuracy(step=100, value=0.4), *other])
    cells = {table.benchmark: table.rows[0].cells[0].value for table in scores.tables}
    assert cells == {"knn/example": 0.4, "knn/other": 0.2}
    steps = {name: [step_of(s) for s in kinds["cls"]] for name, kinds in scores.checkpoints.items()}
    assert steps == {"knn/example": [50, 100], "knn/other": [50, 100, 150]}


def test_one_step_alone_is_no_curve():
    assert arrange([accuracy(step=100)]).checkpoints == {}


def test_a_record_without_a_step_has_none(records):
    assert step_of(records[0]) is None
    assert step_of(accuracy(step=12)) == 12
