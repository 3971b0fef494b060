"""Tables come back as written, in the types of their schema; equal tables have equal bytes."""

import itertools

import pyarrow as pa
import pytest

from dinoforge.errors import UsageError
from dinoforge.tables import (
    iter_blocks,
    iter_row_groups,
    read_table,
    read_tables,
    write_table,
    write_tables,
)

SCHEMA = pa.schema([("id", pa.int64()), ("score", pa.float32()), ("keys", pa.list_(pa.string()))])


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


@pytest.mark.parametrize("metadata", [None, {"stage": "embed"}])
@pytest.mark.parametrize("bounds", [(0, 0), (0, 3, 300_000), (0, 262_144, 262_144, 262_145)])
def test_tables_written_block_by_block_have_the_bytes_of_one(tmp_path, bounds, metadata):
    whole = rows(bounds[-1])
    write_table(tmp_path / "whole", whole, SCHEMA, metadata=metadata)
    parts = (
        whole.slice(a, b - a).select(["keys", "id", "score"]) for a, b in itertools.pairwise(bounds)
    )
    num = write_tables(tmp_path / "parts", parts, SCHEMA, metadata=metadata)
    assert num == bounds[-1] == read_table(tmp_path / "whole", ["id"]).num_rows
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_blocks_go_on_from_one_file_to_the_next(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for path, (start, num) in zip(paths, [(0, 5), (5, 0), (5, 6)], strict=True):
        write_table(path, rows(num, start), SCHEMA)
    blocks = [block["id"].to_pylist() for block in iter_blocks(paths, ["id"], 4)]
    assert blocks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_several_tables_are_read_in_the_order_given(tmp_path):
    for name, start in (("a", 0), ("b", 10)):
        write_table(tmp_path / name, rows(3, start), SCHEMA)
    table = read_tables([tmp_path / "b", tmp_path / "a"], ["id"])
    assert table["id"].to_pylist() == [10, 11, 12, 0, 1, 2]
    assert table.column_names == ["id"]


def test_a_table_comes_back_by_row_groups(tmp_path):
    write_table(tmp_path / "t", rows(70_000), SCHEMA)
    assert [part.num_rows for part in iter_row_groups(tmp_path / "t", ["id"])] == [65_536, 4_464]


def test_an_empty_table_is_a_table(tmp_path):
    write_table(tmp_path / "t", rows(0), SCHEMA)
    assert read_table(tmp_path / "t").num_rows == 0
    assert sum(part.num_rows for part in iter_row_groups(tmp_path / "t")) == 0


def test_other_columns_and_values_of_another_type_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"missing columns \['keys'\], extra \[\]"):
        write_table(tmp_path / "t", rows(3).drop(["keys"]), SCHEMA)
    with pytest.raises(ValueError, match=r"missing columns \[\], extra \['more'\]"):
        write_table(tmp_path / "t", rows(2).append_column("more", pa.array([1, 2])), SCHEMA)
    with pytest.raises(pa.ArrowInvalid):
        write_table(tmp_path / "t", rows(2).set_column(0, "id", pa.array(["a", "b"])), SCHEMA)
    assert list(tmp_path.iterdir()) == []


def read_by_groups(path):
    return list(iter_row_groups(path))


@pytest.mark.parametrize("read", [read_table, lambda path: read_tables([path]), read_by_groups])
@pytest.mark.parametrize("content", [None, b"", b"PAR1", "folder", "half"])
def test_what_is_no_table_is_reported_in_one_line(tmp_path, content, read):
    path = tmp_path / "t"
    if content == "folder":
        path.mkdir()
    elif content == "half":
        write_table(path, rows(1000), SCHEMA)
        path.write_bytes(path.read_bytes()[:-20])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"table unreadable: .*rerun the command") as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)
