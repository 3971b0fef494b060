"""Faults in masks, depth maps and their folders: exit 2 and one line that names the file."""

import numpy as np
import pytest
from benchmark_sets import encode, write_depth, write_masked
from evaluations import write_run

from dinoforge.cli.main import main
from dinoforge.steps import export_file

SETTINGS = (
    *("baselines=[]", "device=cpu", "bootstrap.pooled_resamples=100"),
    *("segmentation.size=[24,24]", "segmentation.blocks=[1]", "segmentation.head.steps=2"),
    *("in_context.size=[24,24]", "depth.size=[24,24]", "depth.head.steps=2"),
)
SPLITS = {
    "ade20k": ("training", "validation"),
    "voc12": ("train", "val"),
    "camvid": ("train", "test"),
}
GRAY = np.zeros((48, 48), np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return export_file(write_run(tmp_path_factory.mktemp("trained"), steps=(1,)), 1)


@pytest.fixture
def evaluate(checkpoint, tmp_path, capsys):
    """Run the command on a set; its exit code and the lines of its errors."""

    def run(layout, *words, on="in-process"):
        sets = f"sets={{toy: {{layout: {layout}, root: {tmp_path / 'toy'}}}}}"
        given = [f"out={tmp_path / 'run'}", f"checkpoint={checkpoint}", "train=[]", sets]
        code = main(["evaluate", *given, *SETTINGS, *words, "--on", on])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return code, [line for line in err.splitlines() if line.startswith("error: ")]

    return run


def png(value):
    return encode(np.full((48, 48), value, np.uint8))


@pytest.mark.parametrize(
    ("layout", "file", "data", "reported"),
    [
        (
            "ade20k",
            "annotations/validation/000.png",
            png(151),
            "label 151 is beyond the list of 150",
        ),
        ("ade20k", "annotations/training/000.png", png(200), "label 200 is beyond the list of 150"),
        ("voc12", "SegmentationClass/val000.png", png(21), "label 21 is beyond the list of 21"),
        ("camvid", "trainannot/000.png", png(12), "label 12 is beyond the list of 11 classes"),
        ("camvid", "testannot/000.png", encode(GRAY[1:]), "mask of 47 x 48 pixels for an image"),
        (
            "camvid",
            "trainannot/000.png",
            encode(GRAY[:, 1:]),
            "mask of 48 x 47 pixels for an image",
        ),
        (
            "camvid",
            "trainannot/000.png",
            b"no mask",
            "undecodable annotation: cannot identify image file -",
        ),
        ("camvid", "test/000.png", b"no image", "undecodable image"),
        ("ade20k", "annotations/validation/003.png", None, "missing"),
        ("ade20k", "annotations/training", None, "missing"),
        ("voc12", "ImageSets/Segmentation/train.txt", None, "missing"),
        ("voc12", "JPEGImages/val001.jpg", None, "missing"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) or value is None else None,
)
def test_faults_of_masks(evaluate, tmp_path, layout, file, data, reported):
    path = write_masked(tmp_path / "toy", layout, SPLITS[layout], train=3) / file
    damage(path, data)
    for protocol in ("segmentation", "in_context"):
        code, lines = evaluate(layout, f"protocols=[{protocol}]", "--update")
        assert code == 2
        (line,) = lines
        assert reported in line
        assert str(path) in line


@pytest.mark.parametrize(
    ("file", "data", "reported"),
    [
        ("test/000.png", encode(np.zeros((47, 64), np.uint16)), "depth map of 47 x 64 pixels"),
        ("train/000.png", encode(np.zeros((48, 64), np.uint8)), "depth map of mode L, not 16-bit"),
        ("test/001.jpg", None, "missing"),
        ("nyu_test.txt", b"only_an_image.jpg\n", "no pair of image and depth map"),
        ("nyu_test.txt", b"", "empty list of NYU Depth v2"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) or value is None else None,
)
def test_faults_of_depth_maps(evaluate, tmp_path, file, data, reported):
    path = write_depth(tmp_path / "toy", "nyu_depth", train=3, test=2) / file
    damage(path, data)
    code, lines = evaluate("nyu_depth", "protocols=[depth]")
    assert code == 2
    (line,) = lines
    assert reported in line
    assert str(path) in line


@pytest.mark.parametrize(
    ("split", "reported"), [("train", "in the training images"), ("test", "no test image has")]
)
def test_depth_maps_of_another_unit(evaluate, tmp_path, split, reported):
    root = write_depth(tmp_path / "toy", "nyu_depth", train=2, test=2)
    for number in range(2):
        far = np.full((48, 64), 30_000, np.uint16)  # 30 m, beyond NYU's 10
        (root / f"{split}/{number:03d}.png").write_bytes(encode(far))
    code, (line,) = evaluate("nyu_depth", "protocols=[depth]")
    assert code == 2
    assert reported in line
    assert "1000 steps per meter" in line


def test_kitti_needs_its_original_images(evaluate, tmp_path):
    write_depth(tmp_path / "toy", "nyu_depth", train=2, test=2)
    for split in ("train", "test"):
        (tmp_path / f"toy/nyu_{split}.txt").rename(tmp_path / f"toy/kitti_eigen_{split}.txt")
    code, (line,) = evaluate("kitti", "protocols=[depth]")
    assert code == 2
    assert "48 x 64 pixels, less than KITTI's crop of 352 x 1216" in line


def test_processes_report_a_fault_once(evaluate, tmp_path):
    root = write_masked(tmp_path / "toy", "camvid", SPLITS["camvid"], train=3)
    (root / "testannot/000.png").write_bytes(png(12))
    code, (line,) = evaluate("camvid", "protocols=[segmentation, in_context]", on="local:2")
    assert code == 2
    assert "label 12 is beyond the list of 11 classes" in line


def damage(path, data):
    if data is not None:
        path.write_bytes(data)
    elif path.is_dir():
        path.rename(path.with_name("elsewhere"))
    else:
        path.unlink()
