"""Records and tables: what is written comes back, and other programs can read it."""

import json
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoforge.errors import UsageError
from dinoforge.records import Record, load, read_records, write_records
from dinoforge.tables import iter_row_groups, read_table, read_tables, write_table

SCHEMA = pa.schema([("id", pa.int64()), ("score", pa.float32()), ("keys", pa.list_(pa.string()))])

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


def rows(num, start=0):
    ids = range(start, start + num)
    return pa.table(
        {"id": ids, "score": [i / 7 for i in ids], "keys": [[str(i)] * (i % 3) for i in ids]}
    )


def test_tables_come_back_in_the_types_that_were_declared(tmp_path):
    plain = rows(5).set_column(0, "id", pa.array(range(5), pa.int32()))
    write_table(tmp_path / "t", plain, SCHEMA, metadata={"stage": "embed"})
    back = read_table(tmp_path / "t")
    assert back.schema.remove_metadata() == SCHEMA
    assert back.schema.metadata[b"stage"] == b"embed"
    assert back["keys"].to_pylist() == [[], ["1"], ["2", "2"], [], ["4"]]


def test_tables_cut_in_pieces_have_the_bytes_of_one_piece(tmp_path):
    pieces = pa.concat_tables([rows(100), rows(50, 100), rows(3, 150)])
    for name, table in (("pieces", pieces), ("whole", rows(153))):
        write_table(tmp_path / name, table.select(["keys", "score", "id"]), SCHEMA)
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


def test_several_tables_are_read_in_the_order_given(tmp_path):
    for name, start in (("a", 0), ("b", 10)):
        write_table(tmp_path / name, rows(3, start), SCHEMA)
    found = read_tables([tmp_path / "b", tmp_path / "a"], ["id"])
    assert found["id"].to_pylist() == [10, 11, 12, 0, 1, 2]
    assert found.column_names == ["id"]


def test_an_empty_table_is_a_table(tmp_path):
    write_table(tmp_path / "t", rows(0), SCHEMA)
    assert read_table(tmp_path / "t").num_rows == 0
    assert sum(part.num_rows for part in iter_row_groups(tmp_path / "t")) == 0


def test_columns_too_many_and_values_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"missing columns \[\], extra \['more'\]"):
        write_table(tmp_path / "t", rows(2).append_column("more", pa.array([1, 2])), SCHEMA)
    with pytest.raises(pa.ArrowInvalid):
        write_table(tmp_path / "t", rows(2).set_column(0, "id", pa.array(["a", "b"])), SCHEMA)
    assert list(tmp_path.iterdir()) == []


def read_by_groups(path):
    return list(iter_row_groups(path))


@pytest.mark.parametrize("read", [read_table, lambda path: read_tables([path]), read_by_groups])
@pytest.mark.parametrize("content", [None, b"", b"PAR1", "folder", "half"])
def test_what_is_no_table_is_told_in_one_line(tmp_path, content, read):
    path = tmp_path / "t"
    if content == "folder":
        path.mkdir()
    elif content == "half":
        write_table(path, rows(1000), SCHEMA)
        path.write_bytes(path.read_bytes()[:-20])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"table unreadable: .*rerun the command") as told:
        read(path)
    assert len(str(told.value).splitlines()) == 1
    assert str(path) in str(told.value)
