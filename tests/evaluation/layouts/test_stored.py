"""Files of data sets: read from disk and from tars; what cannot be read is named."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.named_images import open_stored
from dinoforge.evaluation.layouts.stored import (
    StoredFile,
    image_size,
    read_labels,
    read_lines,
    read_pixels,
)
from dinoforge.shards.index import index_shard


def png(labels, mode="P"):
    image = Image.fromarray(labels)
    if mode == "P":
        image.putpalette(np.random.default_rng(0).bytes(768))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


LABELS = np.array([[0, 1, 2], [2, 2, 255]], np.uint8)


@pytest.mark.parametrize("mode", ["P", "L"])
def test_labels_are_indices_of_the_palette_or_gray_values(tmp_path, mode):
    (tmp_path / "a.png").write_bytes(png(LABELS, mode))
    labels = read_labels(StoredFile(str(tmp_path / "a.png")))
    assert labels.dtype == np.uint8
    assert labels.tolist() == LABELS.tolist()


def test_a_binary_annotation_is_0_and_1(tmp_path):
    Image.fromarray(LABELS > 1).save(tmp_path / "a.png")
    assert read_labels(StoredFile(str(tmp_path / "a.png"))).tolist() == [[0, 0, 1], [1, 1, 1]]


def test_members_of_a_tar_are_read_in_place(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("x.png", "y.png"):
            data = png(LABELS if name == "y.png" else LABELS * 0)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (member,) = index_shard(tmp_path / "a.tar").samples[1].members.values()
    file = StoredFile(str(tmp_path / "a.tar"), member.name, member.offset, member.size)
    assert str(file) == f"{tmp_path}/a.tar:y.png"
    assert read_labels(file).tolist() == LABELS.tolist()
    assert read_pixels(file).shape == (2, 3, 3)
    assert image_size(file) == (2, 3)
    (tmp_path / "b.png").write_bytes(png(LABELS, "L"))
    images = open_stored([file, StoredFile(str(tmp_path / "b.png")), file])
    assert images.decode(1)[0, :, 0].tolist() == LABELS[0].tolist()
    assert (images.decode(0) == images.decode(2)).all()
    assert images.table.column("key").to_pylist()[:2] == [str(file), f"{tmp_path}/b.png"]
    with pytest.raises(UsageError, match=r"missing file of the data set - .*none"):
        open_stored([StoredFile(str(tmp_path / "none"))])


def test_what_cannot_be_read_is_named(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "color.png")
    (tmp_path / "cut.png").write_bytes(png(LABELS)[:40])
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfd")
    file = {name: StoredFile(str(tmp_path / name)) for name in ("color.png", "cut.png", "none")}
    for call, text in (
        (lambda: read_labels(file["color.png"]), r"annotation of colors \(mode RGB\).*color.png"),
        (lambda: read_labels(file["cut.png"]), "undecodable annotation.*cut.png - restore"),
        (lambda: read_pixels(file["cut.png"]), "undecodable image.*cut.png - restore"),
        (lambda: read_labels(file["none"]), "No such file.*none - complete the data set"),
        (lambda: read_lines(tmp_path / "empty.txt", layout="X"), "empty list of X - .*empty.txt"),
        (lambda: read_lines(tmp_path / "binary.txt", layout="X"), "no text - .*binary.txt"),
        (lambda: image_size(file["none"]), "No such file.*none - complete the data set"),
        (
            lambda: image_size(StoredFile(str(tmp_path / "binary.txt"))),
            "undecodable image - .*binary",
        ),
        (lambda: read_lines(tmp_path / "x.txt", layout="X"), "missing file of X - .*/x.txt - give"),
    ):
        with pytest.raises(UsageError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_list_is_its_lines_without_empty_ones(tmp_path):
    (tmp_path / "val.txt").write_text("dog\r\n\ncat \n")
    assert read_lines(tmp_path / "val.txt", layout="X") == ["dog", "cat"]
