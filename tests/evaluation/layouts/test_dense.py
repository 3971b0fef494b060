"""Masks and depth maps as they are read: sizes, numbers, blocks of frames."""

import numpy as np
import pytest
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.dense import (
    IGNORED,
    DenseItem,
    DenseSet,
    blocks_of_frames,
    read_depth_map,
)
from dinoforge.evaluation.layouts.stored import StoredFile


@pytest.fixture
def make_set(tmp_path):
    """Write an image with its mask or depth map; list them."""

    def make(*, size=(4, 6), labels=None, depth=None, **facts):
        Image.new("RGB", size[::-1], (9, 9, 9)).save(tmp_path / "a.jpg")
        files = {}
        for name, array in (("labels", labels), ("depth", depth)):
            if array is not None:
                Image.fromarray(np.asarray(array)).save(tmp_path / f"{name}.png")
                files[name] = StoredFile(str(tmp_path / f"{name}.png"))
        item = DenseItem("a", StoredFile(str(tmp_path / "a.jpg")), **files, unit="a")
        return DenseSet(name="toy", items=[item], classes=("x", "y"), **facts), item

    return make


def test_labels_are_mapped_to_classes(make_set):
    stored = np.full((4, 6), 7, np.uint8)
    stored[0], stored[1] = 11, 255
    data, item = make_set(labels=stored, class_of={7: 0, 11: 1, 255: IGNORED})
    labels = data.read_labels(item)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[:, 0], [1, 255, 0, 0])
    assert data.read_image(item).shape == (4, 6, 3)


def test_a_label_beyond_the_list_is_refused(make_set):
    stored = np.zeros((4, 6), np.uint8)
    stored[2, 2] = 9
    data, item = make_set(labels=stored, class_of={0: 0, 1: 1, 255: IGNORED})
    with pytest.raises(UsageError) as error:
        data.read_labels(item)
    (fault,) = error.value.faults
    assert fault.what == "label 9 is beyond the list of 2 classes"
    assert fault.where.endswith("labels.png")
    assert fault.do == "toy has the labels 0 to 1, 255"


def test_a_mask_of_another_size_is_refused(make_set):
    data, item = make_set(labels=np.zeros((4, 5), np.uint8), class_of={0: 0})
    with pytest.raises(UsageError, match="mask of 4 x 5 pixels for an image of 4 x 6"):
        data.read_labels(item)


def test_the_mask_of_a_turned_image_is_turned_too(make_set, tmp_path):
    data, item = make_set(labels=np.zeros((4, 6), np.uint8), class_of={0: 0})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert data.read_image(item).shape == (6, 4, 3)
    with pytest.raises(UsageError, match="mask of 4 x 6 pixels for an image of 6 x 4"):
        data.read_labels(item)


def test_depth_is_in_meters(make_set):
    stored = np.full((4, 6), 2500, np.uint16)
    stored[0] = 0
    data, item = make_set(depth=stored)
    depth = data.read_depth(item)
    np.testing.assert_array_equal(depth[:, 0], [0, 2.5, 2.5, 2.5])
    assert depth.dtype == np.float32


def test_depth_of_8_bits_or_another_size_is_refused(make_set):
    data, item = make_set(depth=np.zeros((4, 6), np.uint8))
    with pytest.raises(UsageError, match="depth map of mode L, not 16-bit gray"):
        data.read_depth(item)
    data, item = make_set(depth=np.zeros((8, 12), np.uint16))
    with pytest.raises(UsageError, match="depth map of 8 x 12 pixels for an image of 4 x 6"):
        data.read_depth(item)


def test_kittis_images_and_truths_are_cut_alike(make_set):
    stored = np.zeros((370, 1226), np.uint16)
    stored[18, 5] = 256
    data, item = make_set(size=(370, 1226), depth=stored, depth_scale=256, has_benchmark_crop=True)
    depth = data.read_depth(item)
    assert depth.shape == (352, 1216) == data.read_image(item).shape[:2]
    assert depth[0, 0] == 1.0


def test_a_damaged_map_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    with pytest.raises(UsageError, match="undecodable depth map") as error:
        read_depth_map(StoredFile(str(tmp_path / "bad.png")))
    assert error.value.faults[0].where == str(tmp_path / "bad.png")


def test_blocks_are_neighbors_of_one_drive():
    keys = [f"B_{number:03d}" for number in range(10)] + ["A_9", "A_1"]
    blocks = blocks_of_frames(keys[::-1])[::-1]
    assert blocks == ["B/0"] * 8 + ["B/1"] * 2 + ["A/0"] * 2
