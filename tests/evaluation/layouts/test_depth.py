"""Lists of NYU Depth v2 and KITTI, made small."""

import numpy as np
import pytest
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.depth import open_kitti, open_nyu_depth


@pytest.fixture
def write(tmp_path):
    def save(path, depth=None, size=(4, 6)):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((*size, 3), np.uint8)
        if depth is not None:
            pixels = np.full(size, depth, np.uint16)
        Image.fromarray(pixels).save(file)

    return save


@pytest.mark.parametrize(
    ("split", "listed", "folder"),
    [
        ("test", "nyu_test.txt", ""),
        ("test", "nyudepthv2_test_files_with_gt.txt", "official_splits/test/"),
        ("train", "splits/nyu_train.txt", "sync/"),
    ],
)
def test_nyu(tmp_path, write, split, listed, folder):
    (tmp_path / listed).parent.mkdir(exist_ok=True)
    line = "/bathroom/rgb_00045.jpg /bathroom/sync_depth_00045.png 518.8579\n"
    (tmp_path / listed).write_text(line)
    write(f"{folder}bathroom/rgb_00045.jpg")
    write(f"{folder}bathroom/sync_depth_00045.png", depth=1250)
    data = open_nyu_depth(tmp_path, split)
    (item,) = data.items
    assert (item.key, data.crop, data.max_depth) == ("bathroom/rgb_00045", "nyu_eigen", 10)
    np.testing.assert_array_equal(data.read_depth(item), np.full((4, 6), 1.25))


def test_kitti_counts_images_without_truth(tmp_path, write):
    lines = [
        "2011_09_26/d_sync/image_02/data/0000000069.png None 721.5",
        "2011_09_26/d_sync/image_02/data/0000000054.png d_sync/proj/0000000054.png 721.5",
    ]
    (tmp_path / "kitti_eigen_test.txt").write_text("\n".join(lines))
    size = (375, 1242)
    write("input/2011_09_26/d_sync/image_02/data/0000000054.png", size=size)
    write("gt_depth/d_sync/proj/0000000054.png", depth=512, size=size)
    data = open_kitti(tmp_path, "test")
    assert data.left_out == {"no depth map": 1}
    assert (data.crop, data.max_depth) == ("kitti_garg", 80)
    depth = data.read_depth(data.items[0])
    np.testing.assert_array_equal(depth, np.full((352, 1216), 2.0))


def test_missing_files_and_broken_lines_are_named(tmp_path, write):
    with pytest.raises(UsageError, match="missing file of KITTI") as error:
        open_kitti(tmp_path, "train")
    assert error.value.faults[0].where == str(tmp_path / "kitti_eigen_train.txt")
    (tmp_path / "nyu_test.txt").write_text("a/rgb.jpg a/depth.png 1\n")
    write("a/rgb.jpg")
    with pytest.raises(UsageError, match="missing file of NYU Depth v2") as error:
        open_nyu_depth(tmp_path, "test")
    assert error.value.faults[0].where == str(tmp_path / "a/depth.png")
    (tmp_path / "nyu_test.txt").write_text("a/rgb.jpg\n")
    with pytest.raises(UsageError, match="no pair of image and depth map: 'a/rgb"):
        open_nyu_depth(tmp_path, "test")
