"""`dinoforge attention` on a video: frames in order, resumed, and assembled or left."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from optional import optional
from PIL import Image

from dinoforge.attention import video as module
from dinoforge.attention.drawing import draw_maps
from dinoforge.attention.ffmpeg import VideoFile, find_ffmpeg, write_video
from dinoforge.attention.maps import AttentionMaps, fit_image
from dinoforge.attention.masks import attention_masks
from dinoforge.cli.main import main
from dinoforge.errors import UsageError

NAMES = ["f1", "f2", "f9", "f10", "f11"]  # in order


def opened(path):
    with Image.open(path) as image:
        return np.array(image)


def ffmpeg(*words, **options):
    program = optional("imageio_ffmpeg", "video").get_ffmpeg_exe()
    command = [program, "-v", "error", *words]
    return subprocess.run(command, capture_output=True, check=True, **options).stdout


def pixels_of(path, height, width):
    data = ffmpeg("-i", f"file:{path}", *["-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
    return np.frombuffer(data, np.uint8).reshape(-1, height, width, 3)


@pytest.fixture
def frames(tmp_path, picture):
    folder = tmp_path / "frames"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        Image.fromarray(picture(26, 41, seed)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def film(tmp_path, picture):
    """A video file of six frames, 2.5 per second."""
    path = tmp_path / "a:film.mp4"
    squares = [picture(4, 6, seed).repeat(8, axis=0).repeat(8, axis=1) for seed in range(6)]
    form = "-f rawvideo -pix_fmt rgb24 -s 48x32 -r 2.5 -i -"
    pixels = b"".join(square.tobytes() for square in squares)
    ffmpeg(*form.split(), "-pix_fmt", "yuv420p", f"file:{path}", input=pixels)
    return path


@pytest.fixture
def run(checkpoints, capsys, tmp_path):
    """Run the command; return its exit code, its JSON and the lines of errors."""

    def call(*words, out="out"):
        flags = ["--checkpoint", str(checkpoints["registers"]), "--out", str(tmp_path / out)]
        code = main(["attention", *map(str, words), *flags, "--workers", "2", "--json", "-q"])
        text = capsys.readouterr()
        return code, json.loads(text.out), text.err.splitlines()

    return call


def test_frames_are_drawn_in_the_order_of_their_numbers(
    run, frames, source, picture, tmp_path, monkeypatch
):
    """Without the extra: frames are left, and the command prints what to install."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    code, answer, _ = run(frames, "--video", "--size", "0", "--threshold", "0.6")
    assert (code, answer["num_mapped"], answer["fps"], answer["video"]) == (0, 5, 30, "")
    assert 'pip install "dinoforge[video]"' in answer["remedy"]
    maps = AttentionMaps(source("registers"), "cpu")
    for number in range(len(NAMES)):
        mapped = maps.of(fit_image(picture(26, 41, number), 0, 8))
        mean = mapped.attention.astype(np.float64).mean(axis=0)[None]
        (mask,) = attention_masks(mean, mass=0.6)
        pixels = np.kron(mask, np.ones((8, 8), bool))[..., None]
        parts = [mapped.image, draw_maps(mapped.image, mean)["mean"]]
        parts.append(np.where(pixels, mapped.image, mapped.image // 4))
        drawn = opened(tmp_path / f"out/attention/frame-{number:06d}.png")
        np.testing.assert_array_equal(drawn, np.hstack(parts))


def test_a_film_becomes_a_film_of_as_many_frames_at_its_rate(run, film, tmp_path):
    code, answer, errors = run(film, "--size", "0")
    assert (code, answer["num_mapped"], answer["fps"]) == (0, 6, 2.5), errors
    assert VideoFile(Path(answer["video"])).fps == 2.5
    stored, after = pixels_of(film, 32, 48), pixels_of(answer["video"], 32, 96)
    drawn = sorted((tmp_path / "out/attention").glob("*.png"))
    assert len(stored) == len(drawn) == len(after) == 6
    for frame, path, shown in zip(stored, drawn, after, strict=True):
        picture = opened(path)
        np.testing.assert_array_equal(picture[:, :48], frame)
        assert np.abs(shown.astype(int) - picture).mean() < 12  # H.264 halves the colors


def test_an_interrupted_video_goes_on_with_the_next_frame(run, film, tmp_path, monkeypatch):
    assert run(film, "--size", "0", out="calm")[0] == 0
    expected = {path.name: path.read_bytes() for path in tmp_path.glob("calm/attention/*.png")}
    left, write = [4], module.write_png

    def interrupted(path, picture):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        write(path, picture)

    monkeypatch.setattr(module, "write_png", interrupted)
    assert run(film, "--size", "0")[0] == 75
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/attention/*.png")}
    assert len(times) == 3
    assert not (tmp_path / "out/attention.mp4").exists()
    monkeypatch.setattr(module, "write_png", write)
    code, answer, _ = run(film, "--size", "0")
    assert (code, answer["num_done_before"], answer["num_mapped"]) == (0, 3, 6)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    written = {path.name: path.read_bytes() for path in tmp_path.glob("out/attention/*.png")}
    assert written == expected
    assert (tmp_path / "out/attention.mp4").exists()
    assert run(film, "--size", "16")[1]["num_done_before"] == 0


def test_frames_without_a_map_or_of_another_size_are_counted(run, frames, picture, tmp_path):
    optional("imageio_ffmpeg", "video")
    Image.fromarray(picture(40, 41)).save(frames / "f3.png")
    (frames / "f4.png").write_bytes((frames / "f2.png").read_bytes()[:300])
    code, answer, _ = run(frames, "--video", "--size", "0", "--fps", "5")
    assert code == 0
    counts = [answer[f"num_{name}"] for name in ("frames", "mapped", "bad", "other_size")]
    assert counts == [7, 6, 1, 1]
    with (tmp_path / "out/problems.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["shard"].endswith("f4.png")
    video = VideoFile(Path(answer["video"]))
    assert (video.total, video.fps) == (5, 5.0)


def test_a_video_that_cannot_be_written_is_an_error(picture, tmp_path):
    optional("imageio_ffmpeg", "video")
    program = find_ffmpeg("a test")
    path = tmp_path / "gone/film.mp4"
    frames = (picture(512, 512) for _ in range(8))
    with pytest.raises(UsageError, match="ffmpeg cannot write the video"):
        write_video(program, frames, path, size=(512, 512), fps=30)


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["FILM", "--array"], "`--array` is for images"),
        (["FILM", "FILM"], "2 paths with a video"),
        (["BROKEN"], "ffmpeg cannot read the video: no frames"),
        (["gone.mp4"], "no such video file"),
        (["FRAMES", "--fps", "5"], "`--fps` is for a video"),
        (["FRAMES", "--video", "--fps", "nan"], "`--fps` is nan"),
        (["FRAMES", "--video", "--size", "0"], "none of the 1 frames can be mapped"),
    ],
)
def test_mistakes_are_one_line(run, film, picture, tmp_path, words, reported):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(film.read_bytes()[:900])
    frames = tmp_path / "one"
    frames.mkdir()
    Image.fromarray(picture(7, 7)).save(frames / "a.png")
    places = {"FILM": film, "BROKEN": broken, "FRAMES": frames}
    code, _, errors = run(*[places.get(word, word) for word in words])
    assert code == 2
    assert len(errors) == 1
    assert reported in errors[0]
    assert errors[0].count(" - ") >= 2
