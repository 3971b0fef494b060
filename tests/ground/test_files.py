"""Files are written whole or not at all; hashes of equal content are equal."""

import hashlib
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dinoforge.errors import UsageError
from dinoforge.files import hash_json, path_of_text, path_text, sha256_file, write_json, write_text


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


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(256)) * 9999)
    expected = hashlib.sha256(bytes(range(256)) * 9999).hexdigest()
    assert sha256_file(tmp_path / "f") == expected


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
@example(b"caf\xe9")
@example(b"caf\\xe9")
@example(b"caf\\x5cxe9")
@example(b"\\\\xe9\\x")
def test_the_text_of_a_path_is_its_own_and_leads_back(name):
    text = path_text(os.fsdecode(name))
    assert os.fsencode(path_of_text(text)) == name
    assert text.encode().decode() == text
    if b"\\x" not in name and name.isascii():
        assert text == name.decode()
