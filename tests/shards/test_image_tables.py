"""Images in Parquet and Arrow files, as Hugging Face's ``datasets`` and others write them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinoforge.shards.image_tables import RowReader, has_images, index_table

FEATURES = {
    "picture": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
}


def jpeg(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


IMAGES = [jpeg(seed) for seed in range(5)]


def write(path, columns, features=None):
    table = pa.table(columns)
    if features:
        noted = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": noted})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
        return str(path)
    new = pa.ipc.new_file if path.name.startswith("file") else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return str(path)


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_a_data_set_of_hugging_face(tmp_path, name):
    structs = [{"bytes": data, "path": f"n{at}.x.jpg"} for at, data in enumerate(IMAGES)]
    structs[3] = {"bytes": None, "path": "elsewhere.jpg"}
    columns = {"label": [0, 1, -1, 0, 1], "picture": structs}
    path = write(tmp_path / name, columns, FEATURES)
    assert has_images(path)
    images, problems = index_table(path)
    assert [(image.key, image.row, image.label) for image in images] == [
        ("n0.x", 0, "cat"),
        ("n1.x", 1, "dog"),
        ("n2.x", 2, None),
        ("n4.x", 4, "dog"),
    ]
    assert [(entry["member"], entry["reason"]) for entry in problems] == [("row 3", "no_image")]
    reader = RowReader(max_groups=1)
    for image in (*images, *reversed(images)):
        content = reader.read(path, image.row)
        assert content == IMAGES[image.row]
        assert len(content) == image.size
    for row in (3, 5, -1):
        with pytest.raises(OSError, match="row"):
            reader.read(path, row)


def test_keys_and_labels_of_plain_columns(tmp_path):
    columns = {
        "thumbnail_hash": [b"12", b"34", b"56", b"78", b"90"],  # bytes, but no images
        "jpg": IMAGES,
        "cls": ["cat", None, "cat", "dog", "dog"],
        "uid": ["u", "v", "u", None, "w"],
    }
    images, problems = index_table(write(tmp_path / "a.parquet", columns))
    assert not problems
    assert [image.key for image in images] == ["u", "v", "u.2", "a-00000003", "w"]
    assert [image.label for image in images] == ["cat", None, "cat", "dog", "dog"]


def test_a_table_without_images_and_damaged_ones(tmp_path):
    path = write(tmp_path / "side.parquet", {"key": ["a", "b"], "hash": [b"12", b"34"]})
    assert not has_images(path)
    assert index_table(path)[1][0]["reason"] == "no_image"
    path = write(tmp_path / "a.parquet", {"image": IMAGES})
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:100] + b"\0" * 300 + whole[400:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        images, problems = index_table(path)
        assert [entry["reason"] for entry in problems] == ["unreadable"]
        assert not images
