"""Rows of tables by a column: the first of each value, whatever the tables and their order."""

import datetime

import numpy as np
import object_store
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinoforge.curation.stored import side_tables
from dinoforge.curation.stored.side_tables import find_rows, find_tables
from dinoforge.errors import UsageError
from dinoforge.remote.store import object_key, open_store


@pytest.fixture
def tables(tmp_path):
    """Three tables with values that repeat, in small row groups; their columns differ."""
    draw = np.random.default_rng(0)
    at = draw.integers(0, 40, 60)
    first = {"uid": [f"u{x}" for x in at[:30]], "n": pa.array(range(30), pa.int16())}
    first |= {"list": [[x, None] for x in range(30)], "raw": [b"x"] * 30}
    second = {"uid": [f"u{x}" for x in at[30:]], "n": np.arange(30, 60) + 0.5}
    second |= {"day": [datetime.date(2026, 1, 1)] * 30, "n2": [float("nan")] * 30}
    third = {"uid": pa.array(["u0", None]), "n": pa.array([7, 8], pa.uint8())}
    (tmp_path / "tables").mkdir()
    for name, columns in {"a": first, "b": second, "c": third}.items():
        pq.write_table(pa.table(columns), tmp_path / f"tables/{name}.parquet", row_group_size=4)
    return tmp_path / "tables"


def read(folder, wanted, is_named=lambda name: True):
    paths = [one.path for one in find_tables([f"{folder}/*.parquet"], None)]
    rows, place = find_rows(paths, "uid", pa.array(wanted, pa.string()), is_named)
    every = rows.to_pylist()
    return [None if at < 0 else every[at] for at in place.tolist()]


@pytest.mark.parametrize("block_rows", [1, 9, 1 << 20])
def test_the_first_row_of_each_value_counts(tables, monkeypatch, block_rows):
    monkeypatch.setattr(side_tables, "_BLOCK_ROWS", block_rows)
    expected = {}
    for name in "abc":
        for row in pq.read_table(tables / f"{name}.parquet").to_pylist():
            expected.setdefault(row["uid"], row)
    wanted = [f"u{x}" for x in range(44)]
    rows = read(tables, wanted)
    assert sum(row is None for row in rows) > 4
    for uid, row in zip(wanted, rows, strict=True):
        if row is None:
            assert uid not in expected
            continue
        assert set(row) == {"uid", "n", "list", "day", "n2"}  # no bytes
        assert (row["uid"], row["n"], row["n2"]) == (uid, expected[uid]["n"], None)
        values = expected[uid].get("list")
        assert row["list"] == (f"[{values[0]}, null]" if values else None)
        assert row["day"] == ("2026-01-01" if "day" in expected[uid] else None)


def test_no_column_no_value_and_no_table_of_a_pattern(tables):
    assert read(tables, ["u0", "x"], lambda name: False) == [{"uid": "u0"}, None]
    assert read(tables, []) == []
    assert find_tables([f"{tables}/*.none"], None) == []


def test_text_and_numbers_in_one_column_are_an_error(tables):
    pq.write_table(pa.table({"uid": ["y"], "n": ["many"]}), tables / "d.parquet")
    with pytest.raises(
        UsageError, match="the column `n` of the side data is int64 for some images, string"
    ):
        read(tables, ["u0", "u1", "u2", "y"])


def test_tables_in_a_bucket_give_what_files_give(proxy, tables):
    store = open_store("s3://tables")
    store.mkdir("tables")
    object_store.copy_folder(tables, "s3://tables/in")
    store.pipe_file(object_key("s3://tables/in/other.txt"), b"x")
    wanted = [f"u{x}" for x in range(9)]
    assert read("s3://tables/in", wanted) == read(tables, wanted)
    (one,) = find_tables(["s3://tables/in/a.parquet"], None)
    assert one[:2] == ("s3://tables/in/a.parquet", (tables / "a.parquet").stat().st_size)
    assert one.version
    assert find_tables(["s3://tables/in/none.parquet"], None) == []
