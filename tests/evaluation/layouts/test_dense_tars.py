"""Our tars: CamVid and NYU of the shared data, and tars that lack something."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.dense import IGNORED
from dinoforge.evaluation.layouts.dense_tars import open_camvid_tars, open_dense_tars, open_nyu_tars


def test_camvid(shared):
    data = open_camvid_tars(shared / "data" / "camvid", "test")
    assert (len(data.items), len(data.classes), data.classes[7]) == (117, 11, "fence")
    # 31 and 86 frames, in blocks of at most 8.
    assert len({item.unit for item in data.items}) == 4 + 11
    labels = data.read_labels(data.items[0])
    assert data.read_image(data.items[0]).shape == (240, 320, 3)
    assert labels.shape == (240, 320)
    assert set(np.unique(labels)) <= {*range(11), IGNORED}
    objects = data.read_objects(data.items[0])
    assert [data.classes[number] for number in data.objects] == ["car", "pedestrian", "bicyclist"]
    np.testing.assert_array_equal(objects == 1, np.isin(labels, data.objects))
    np.testing.assert_array_equal(objects == IGNORED, labels == IGNORED)


def test_nyu(shared):
    data = open_nyu_tars(shared / "data" / "nyu-depth-v2-sample", "train")
    assert (len(data.items), len(data.classes), data.crop) == (120, 39, "nyu_eigen")
    item = data.items[3]
    depth = data.read_depth(item)
    assert depth.shape == data.read_labels(item).shape == (240, 320)
    assert 0.7 < depth.min() < depth.max() <= 10
    assert item.unit == item.key


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def write_tar(tmp_path):
    def write(members, classes="a\nb\n"):
        path = tmp_path / "toy-000000.tar"
        with tarfile.open(path, "w") as tar:
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        if classes:
            (tmp_path / "classes.txt").write_text(classes)
        return path

    return write


PICTURE = png(np.zeros((4, 4, 3), np.uint8))
MASK = png(np.ones((4, 4), np.uint8))


def test_pictures_may_be_png_when_masks_are_named(write_tar):
    path = write_tar({"k.png": PICTURE, "k.seg.png": MASK})
    data = open_dense_tars([path], name="toy")
    np.testing.assert_array_equal(data.read_labels(data.items[0]), np.ones((4, 4)))


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({"k.jpg": PICTURE}, "a sample lacks a mask, k.seg.png or k.png"),
        ({"k.png": PICTURE}, "a sample lacks a mask, k.seg.png or k.png"),
        ({"k.seg.png": MASK}, "a sample lacks an image"),
        ({"k.txt": b"x"}, "a sample lacks an image"),
    ],
)
def test_a_sample_that_lacks_something_is_named(write_tar, members, what):
    path = write_tar(members)
    with pytest.raises(UsageError) as error:
        open_dense_tars([path], name="toy")
    assert error.value.faults[0].what == what
    assert error.value.faults[0].where == f"{path}:k"


def test_a_cut_tar_is_refused(write_tar):
    path = write_tar({"k.jpg": PICTURE, "k.png": MASK})
    path.write_bytes(path.read_bytes()[:1400])
    with pytest.raises(UsageError, match=r"tar of toy is incomplete \(1 "):
        open_dense_tars([path], name="toy")


def test_missing_tars_and_classes_are_named(write_tar, tmp_path):
    with pytest.raises(UsageError, match="missing file of camvid"):
        open_camvid_tars(tmp_path, "test")
    path = write_tar({"k.jpg": PICTURE, "k.png": MASK}, classes="")
    with pytest.raises(UsageError) as error:
        open_dense_tars([path], name="toy")
    assert error.value.faults[0].where == str(tmp_path / "classes.txt")
