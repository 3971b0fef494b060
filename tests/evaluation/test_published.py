"""What changes the fingerprint of a data set of a published layout."""

import pytest

from dinoforge.evaluation.published import fingerprint_files


def test_files_behind_links_count_and_loops_end(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "masks").mkdir(parents=True)
    other.mkdir()
    (other / "1.png").write_bytes(b"one")
    (root / "images").symlink_to(other)
    (root / "masks" / "loop").symlink_to(root)
    before = fingerprint_files(str(root))
    assert fingerprint_files(str(root)) == before
    (other / "1.png").write_bytes(b"another")
    changed = fingerprint_files(str(root))
    assert changed != before
    (root / "masks" / "1.png").write_bytes(b"")
    assert fingerprint_files(str(root)) != changed


@pytest.mark.parametrize("data", [b"a", b"ab"])
def test_a_single_file_has_a_fingerprint(tmp_path, data):
    file = tmp_path / "names.txt"
    file.write_bytes(b"abc")
    before = fingerprint_files(str(file))
    file.write_bytes(data)
    assert fingerprint_files(str(file)) != before
