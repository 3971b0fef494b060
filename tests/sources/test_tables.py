"""Sources that are tables, and tars with the tables that img2dataset writes beside them."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinoforge.sources.image_set import open_images


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_table(path, values, **columns):
    pq.write_table(pa.table({"image": [png(v) for v in values], **columns}), path, row_group_size=2)


def test_images_of_tables_are_read_and_labeled(tmp_path):
    write_table(tmp_path / "b.parquet", [1, 2, 3], label=["cat", "dog", None], key=["x", "y", "z"])
    write_table(tmp_path / "a.parquet", [4, 5])
    pq.write_table(pa.table({"key": ["x"], "width": [8]}), tmp_path / "facts.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:90])
    images = open_images([str(tmp_path)], cache=tmp_path / "cache")
    table = images.table.to_pydict()
    assert table["key"] == ["a-00000000", "a-00000001", "x", "y", "z"]
    assert table["member"] == ["row 0", "row 1", "row 0", "row 1", "row 2"]
    assert table["class_name"] == ["", "", "cat", "dog", ""]
    assert [int(images.decode(at)[0, 0, 0]) for at in (4, 0, 3, 1, 2)] == [3, 4, 2, 5, 1]
    problems = {entry["shard"].rpartition("/")[2]: entry["reason"] for entry in images.problems}
    assert problems == {"facts.parquet": "other_file", "cut.parquet": "unreadable"}


@pytest.mark.parametrize("suffix", [".parquet", "_stats.json"])
def test_files_about_a_tar_are_no_problem(tmp_path, suffix):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name, content in (("000000000.png", png(7)), ("000000000.json", b"{}")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    about = tmp_path / f"00000{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"key": ["000000000", "000000001"]}), about)
    else:
        about.write_text(json.dumps({"count": 2, "successes": 1}))
    images = open_images([str(tmp_path)], cache=tmp_path / "cache")
    assert images.table.column("key").to_pylist() == ["000000000"]
    assert not images.problems
