import pickle

import pyarrow as pa
import pytest

from dinoforge.errors import Fault, UsageError
from dinoforge.files import hash_json, sha256_file, write_json, write_text
from dinoforge.tables import iter_row_groups, read_table, write_table

SCHEMA = pa.schema([("id", pa.int64()), ("key", pa.string())])


def table(n):
    return pa.table({"key": [str(i) for i in range(n)], "id": range(n)})


def test_equal_tables_have_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_table(tmp_path / name, table(1000), SCHEMA)
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")
    assert read_table(tmp_path / "a", ["id"])["id"].to_pylist() == list(range(1000))


def test_a_table_comes_back_by_row_groups(tmp_path):
    write_table(tmp_path / "t", table(70_000), SCHEMA)
    assert [part.num_rows for part in iter_row_groups(tmp_path / "t", ["id"])] == [65_536, 4_464]


def test_a_table_must_have_its_schema(tmp_path):
    with pytest.raises(ValueError, match="missing columns"):
        write_table(tmp_path / "t", table(3).drop(["key"]), SCHEMA)


def test_a_failed_write_leaves_the_old_file_and_no_half(tmp_path):
    write_text(tmp_path / "f", "old")
    with pytest.raises(TypeError):
        write_json(tmp_path / "f", {"x": object()})
    assert (tmp_path / "f").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_write_below_a_file_is_one_line(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(UsageError, match="cannot write"):
        write_text(tmp_path / "f" / "g", "x")


def test_hashes_do_not_depend_on_key_order():
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})


def test_usage_errors_survive_the_way_between_processes():
    error = UsageError(faults=[Fault("a", "b", "c"), Fault("d", "e", "f")])
    back = pickle.loads(pickle.dumps(error))
    assert back.faults == error.faults
    assert str(back) == "a - b - c\nd - e - f"
