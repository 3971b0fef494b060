"""Records come back as written, and other programs can read them."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoforge.records import Record, load, read_records, write_records

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(max_size=8)
SETTINGS = st.dictionaries(
    WORDS, st.none() | st.booleans() | st.integers() | NUMBERS | WORDS, max_size=3
)
RECORDS = st.builds(
    Record,
    benchmark=WORDS,
    model=WORDS,
    metric=WORDS,
    value=NUMBERS,
    interval=st.none() | st.tuples(NUMBERS, NUMBERS),
    n=st.integers(0, 10**9),
    settings=SETTINGS,
    seconds=NUMBERS,
)


@settings(max_examples=40)
@given(st.lists(RECORDS, max_size=4))
def test_any_records_come_back_as_they_were(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    write_records(path, records)
    assert read_records(path) == records


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_null_for_other_programs(tmp_path, value):
    path = tmp_path / "records.jsonl"
    record = Record(benchmark="b", model="m", metric="x", value=value, interval=(value, 1.0))
    write_records(path, [record])

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert (row["value"], row["interval"]) == (None, None)
    (back,) = read_records(path)
    assert math.isnan(back.value)
    assert back.interval is None


def test_records_of_several_runs_are_one_table(tmp_path):
    knn = Record(
        benchmark="knn/x",
        model="trained",
        metric="accuracy",
        value=0.5,
        interval=(0.4, 0.6),
        n=10,
        settings={"k": 20, "features": "cls"},
    )
    rankme = Record(benchmark="collapse/x", model="trained", metric="rankme", value=math.nan)
    run = tmp_path / "run"
    run.mkdir()
    write_records(run / "records.jsonl", [knn, rankme])
    write_records(tmp_path / "other.jsonl", [knn])
    frame = load([run, str(tmp_path / "other.jsonl")])
    assert frame.benchmark.tolist() == ["knn/x", "collapse/x", "knn/x"]
    assert frame.path.tolist() == [str(run), str(run), str(tmp_path / "other.jsonl")]
    assert (
        frame[["value", "low", "high", "n", "k"]].values[::2].tolist()
        == [[0.5, 0.4, 0.6, 10, 20]] * 2
    )
    assert frame[["value", "low", "high", "k", "features"]].iloc[1].isna().all()
    assert frame.pivot_table("value", index="features", columns="k").loc["cls", 20] == 0.5


def test_a_table_of_no_records_has_the_columns_of_a_record():
    frame = load([])
    assert len(frame) == 0
    assert {"benchmark", "model", "metric", "value", "low", "high", "path"} <= set(frame.columns)


def test_a_setting_that_is_not_finite_is_a_defect_and_keeps_the_old_records(tmp_path):
    path = tmp_path / "records.jsonl"
    good = Record(benchmark="b", model="m", metric="x", value=1.0)
    write_records(path, [good])
    bad = Record(benchmark="b", model="m", metric="x", value=1.0, settings={"k": math.nan})
    with pytest.raises(ValueError, match="Out of range float"):
        write_records(path, [bad])
    assert read_records(path) == [good]
