"""Videos as folders of frames: what is listed, and what is refused in one line."""

import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.layouts.clips import open_clips


@pytest.fixture
def videos(tmp_path):
    root = tmp_path / "frames"
    for name in ("Biking/v_1", "Archery/v_2", "Archery/v_10"):
        for frame in (1, 2, 10):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f"img_{frame}.jpg").touch()
        (root / name / "notes.txt").touch()
    return root


def test_classes_are_folders_and_frames_are_in_the_order_of_their_numbers(videos):
    result = open_clips(videos)
    assert result.classes == ["Archery", "Biking"]
    assert [(clip.name, clip.label) for clip in result.clips] == [
        ("Archery/v_10", 0),
        ("Archery/v_2", 0),
        ("Biking/v_1", 1),
    ]
    frames = [file.path.rpartition("/")[2] for file in result.clips[0].frames]
    assert frames == ["img_1.jpg", "img_2.jpg", "img_10.jpg"]


def test_a_split_is_a_list_as_ucf_101_has_it(videos, tmp_path):
    listed = tmp_path / "trainlist01.txt"
    listed.write_text("Archery/v_2.avi 1\r\nBiking/v_1 2\r\n")
    result = open_clips(videos, listed=listed)
    assert [clip.name for clip in result.clips] == ["Archery/v_2", "Biking/v_1"]
    listed.write_text("Archery/v_3.avi 1\n")
    with pytest.raises(UsageError, match=r"missing file of videos as .* - .*/Archery/v_3 - give"):
        open_clips(videos, listed=listed)


def test_classes_of_another_part_number_the_labels(videos):
    result = open_clips(videos, classes=["Biking", "Yoga", "Archery"])
    assert [clip.label for clip in result.clips] == [2, 2, 0]
    with pytest.raises(
        UsageError, match=r"class beyond the list of 1 classes - .*Biking/v_1 - give"
    ):
        open_clips(videos, classes=["Archery"])


def test_folders_without_frames_and_video_files_are_refused(videos, tmp_path):
    (videos / "Biking/v_2").mkdir()
    with pytest.raises(UsageError, match=r"missing file of .* - .*Biking/v_2/\*.jpg - give"):
        open_clips(videos)
    (videos / "Biking/v_3.avi").touch()
    with pytest.raises(UsageError, match=r"a video file, not a folder .* - .*v_3.avi - extract"):
        open_clips(videos)
    with pytest.raises(UsageError, match=r"missing file of .* - .*/none - give"):
        open_clips(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no videos - .*/empty - give"):
        open_clips(tmp_path / "empty")
