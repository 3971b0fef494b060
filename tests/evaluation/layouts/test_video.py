"""DAVIS as published and as tars: what is listed, and what is refused in one line."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.video import open_davis, open_video_tars


def picture(size=(6, 4), suffix="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, suffix)
    return file.getvalue()


def annotation(labels):
    file = io.BytesIO()
    image = Image.fromarray(np.asarray(labels, np.uint8))
    image.putpalette(bytes(range(256)) * 3)
    image.save(file, "PNG")
    return file.getvalue()


LABELS = [[0, 0, 1, 1, 2, 255]] * 4


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def davis(tmp_path):
    for name in ("dog", "cat"):
        for frame in range(4):
            write(tmp_path / f"JPEGImages/480p/{name}/{frame:05d}.jpg", picture())
            write(tmp_path / f"Annotations/480p/{name}/{frame:05d}.png", annotation(LABELS))
    write(tmp_path / "ImageSets/2017/val.txt", b"dog\ncat\n")
    return tmp_path


def test_videos_of_2017_in_the_order_of_the_list(davis):
    videos = open_davis(davis)
    assert [video.name for video in videos] == ["dog", "cat"]
    assert [file.path[-9:] for file in videos[0].frames] == [f"{n:05d}.jpg" for n in range(4)]
    assert videos[0].read_annotations().tolist() == [LABELS] * 4


@pytest.mark.parametrize(
    ("listed", "lines"),
    [
        ("2016", "cat\n"),
        ("480p", "/JPEGImages/480p/cat/00000.jpg /Annotations/480p/cat/00000.png \n" * 2),
    ],
)
def test_videos_of_2016_have_one_object(davis, listed, lines):
    write(davis / f"ImageSets/{listed}/val.txt", lines.encode())
    (video,) = open_davis(davis, year=2016)
    assert video.name == "cat"
    assert video.read_annotations().tolist() == [[[0, 0, 1, 1, 1, 1]] * 4] * 4


@pytest.mark.parametrize(
    "missing",
    [
        "ImageSets/2017/val.txt",
        "Annotations/480p/cat/00002.png",
        "Annotations/480p/dog/00000.png",
        "JPEGImages/480p/dog/00000.jpg",
    ],
)
def test_the_first_missing_file_is_named(davis, missing):
    paths = [davis / missing]
    if missing.startswith("JPEG"):  # only an empty folder shows that frames are missing
        paths = list((davis / missing).parent.iterdir())
    for path in paths:
        path.unlink()
    with pytest.raises(UsageError, match=f"missing file of DAVIS 2017 - .*/{missing} - give") as e:
        open_davis(davis)
    assert "\n" not in str(e.value)


def test_annotations_of_another_size_and_short_videos_are_refused(davis):
    write(davis / "Annotations/480p/cat/00002.png", annotation([[0, 1]]))
    video = open_davis(davis)[1]
    with pytest.raises(
        UsageError, match=r"annotation of 1 x 2 pixels for an image of 4 x 6 - .*cat/00002"
    ):
        video.read_annotations()
    write(davis / "JPEGImages/480p/cat/00002.jpg", picture((2, 1)))
    with pytest.raises(
        UsageError, match=r"frame of 1 x 2 pixels, the first .* has 4 x 6 - .*cat/00002"
    ):
        video.read_annotations()
    for frame in (2, 3):
        (davis / f"JPEGImages/480p/dog/0000{frame}.jpg").unlink()
    with pytest.raises(
        UsageError, match=r"2 frames, of which .* - .*dog/00000.jpg - give videos of"
    ):
        open_davis(davis)


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_videos_in_tars_are_in_the_order_of_frame_numbers(tmp_path):
    members = [
        (f"{name}_{frame}.{extension}", data)
        for name in ("a_b", "c")
        for frame in (10, 9, 11)
        for extension, data in (("jpg", picture()), ("png", annotation(LABELS)))
    ]
    videos = open_video_tars([tar_of(tmp_path / "x.tar", members)])
    assert [video.name for video in videos] == ["a_b", "c"]
    assert [file.member for file in videos[0].frames] == ["a_b_9.jpg", "a_b_10.jpg", "a_b_11.jpg"]
    assert videos[1].read_annotations().tolist() == [LABELS] * 3


def test_tars_that_are_damaged_or_incomplete_are_refused(tmp_path):
    tar = tar_of(tmp_path / "x.tar", [("a_1.jpg", picture()), ("a_1.png", annotation(LABELS))] * 3)
    with pytest.raises(UsageError, match=r"a second frame a_1 - .*x.tar - give each tar once"):
        open_video_tars([tar])
    tar_of(tar, [("a_1.jpg", picture())])
    with pytest.raises(UsageError, match=r"missing file of pairs .* - .*x.tar:a_1.png - give"):
        open_video_tars([tar])
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(UsageError, match=r"damaged tar \(1 truncated\) - .*x.tar - give"):
        open_video_tars([tar])
    with pytest.raises(UsageError, match="no videos - "):
        open_video_tars([])


def test_the_real_sample(shared):
    tars = sorted((shared / "data/davis2016-val-sample").glob("*.tar"))
    videos = open_video_tars(tars)
    assert {video.name: len(video.frames) for video in videos} == {
        "blackswan": 50,
        "bmx-trees": 80,
        "kite-surf": 50,
        "scooter-black": 43,
    }
    masks = videos[3].read_annotations()
    assert masks.shape == (43, 240, 427)
    assert np.unique(masks).tolist() == [0, 1]
