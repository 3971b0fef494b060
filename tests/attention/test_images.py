"""`dinoforge attention` on images: what it writes, skips, counts and refuses."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from dinoforge.attention import images as module
from dinoforge.attention.masks import attention_masks
from dinoforge.cli.main import main


def opened(path):
    with Image.open(path) as image:
        return np.array(image)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path, picture):
    """A wide and a tall image, one of the same name in a tar, one damaged, one of 5 pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "wide.png").write_bytes(png(picture(30, 50)))
    (folder / "tall.png").write_bytes(png(picture(70, 33, 1)))
    (folder / "broken.png").write_bytes(png(picture(30, 50))[:200])
    with tarfile.open(folder / "more.tar", "w") as tar:
        for name, pixels in (("wide", picture(30, 50, 2)), ("a/b c", picture(16, 16))):
            entry = tarfile.TarInfo(f"{name}.png")
            entry.size = len(png(pixels))
            tar.addfile(entry, io.BytesIO(png(pixels)))
    return folder


@pytest.fixture
def run(checkpoints, capsys, tmp_path):
    """Run the command; return its exit code, its JSON and the lines of errors."""

    def call(*words, name="plain", out="out"):
        flags = ["--checkpoint", str(checkpoints[name]), "--out", str(tmp_path / out)]
        code = main(["attention", *map(str, words), *flags, "--json", "-q"])
        text = capsys.readouterr()
        return code, json.loads(text.out), text.err.splitlines()

    return call


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix in {".png", ".npy"}
    }


def test_every_image_gets_a_folder_of_maps_and_what_has_none_is_named(run, photos, tmp_path):
    words = ("--size", "32", "--threshold", "0.6", "--array")
    code, answer, _ = run(photos, *words, name="registers")
    assert code == 0
    assert (answer["num_mapped"], answer["num_bad"], answer["heads"]) == (4, 1, 3)
    written = files(tmp_path / "out")
    names = {name.split("/")[0] for name in written}
    assert names == {"wide", "tall", "wide.2", "a_b_c"}
    expected = [f"{kind}-{head:02d}.png" for kind in ("head", "mask") for head in range(3)]
    expected += ["attention.npy", "mean.png", "overlay.png", "sheet.png"]
    assert {f"{name}/{one}" for name in names for one in expected} == written.keys()
    attention = np.load(written["tall/attention.npy"])
    assert attention.shape == (3, 68 // 8, 32 // 8)
    masks = attention_masks(attention.astype(np.float64), mass=0.6)
    stored = opened(written["tall/mask-01.png"])
    np.testing.assert_array_equal(stored, np.kron(masks[1], np.full((8, 8), 255)))
    with (tmp_path / "out/problems.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["shard"].endswith("broken.png")


def test_done_images_are_skipped_and_others_are_made_with_the_same_bytes(run, photos, tmp_path):
    """Killed while it wrote an image: some of its pictures are there, and no marker."""
    words = (photos, "--size", "32", "--workers")
    assert run(*words, "0")[0] == 0
    before = {name: path.read_bytes() for name, path in files(tmp_path / "out").items()}
    times = {name: path.stat().st_mtime_ns for name, path in files(tmp_path / "out").items()}
    (tmp_path / "out/wide/maps.json").unlink()
    (tmp_path / "out/wide/mean.png").unlink()
    (tmp_path / "out/wide/head-01.png").write_bytes(b"half")
    code, answer, _ = run(*words, "3")
    assert (code, answer["num_done_before"], answer["num_mapped"]) == (0, 3, 4)
    after = files(tmp_path / "out")
    assert {name: path.read_bytes() for name, path in after.items()} == before
    changed = {name for name, path in after.items() if path.stat().st_mtime_ns != times[name]}
    assert {name.split("/")[0] for name in changed} == {"wide"}


def test_other_settings_or_another_image_replace_maps(run, photos, picture, tmp_path):
    one = photos / "wide.png"
    assert run(one, "--size", "0", "--threshold", "0.5")[0] == 0
    assert (tmp_path / "out/wide/mask-00.png").exists()
    for words, name in (((), "plain"), (("--smooth",), "plain"), ((), "rope")):
        code, answer, _ = run(one, "--size", "0", *words, name=name)
        assert (code, answer["num_done_before"]) == (0, 0)
        assert not (tmp_path / "out/wide/mask-00.png").exists()
    one.write_bytes(png(picture(40, 50)))
    assert run(one, "--size", "0", name="rope")[1]["num_done_before"] == 0
    assert run(one, "--size", "0", name="rope")[1]["num_done_before"] == 1
    assert opened(tmp_path / "out/wide/overlay.png").shape == (40, 48, 3)


def test_an_image_smaller_than_a_patch_is_one_line(run, tmp_path, picture):
    (tmp_path / "tiny.png").write_bytes(png(picture(7, 40)))
    code, answer, errors = run(tmp_path / "tiny.png", "--size", "0")
    assert code == 2
    assert len(errors) == 1
    assert "7 x 40 pixels, smaller than a patch of 8 x 8" in errors[0]
    assert answer["faults"][0]["where"] == str(tmp_path / "tiny.png")


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--threshold", "1"], "`--threshold` is 1.0"),
        (["--threshold", "0.6,0.9"], "need float - command line - see `dinoforge attention --help"),
        (["--size", "-1"], "`--size` is -1"),
        (["--positions", "x"], "unknown mode `x`"),
        (["--step", "3"], "only a training run has steps"),
        (["--device", "tpu"], "`--device` is 'tpu'"),
    ],
)
def test_mistakes_are_one_line(run, photos, words, reported):
    code, _, errors = run(photos, *words)
    assert code == 2
    assert len(errors) == 1
    assert reported in errors[0]


def test_folders_have_distinct_plain_names_on_any_file_system():
    keys = ["../../x", "x", "X", "log", "ma chérie/größe", "ö" * 200, "", "..", r"\xff"]
    names = list(module._folder_names(keys))
    assert names[:5] == ["_.._x", "x", "X.2", "log.2", "ma_chérie_größe"]
    assert len({name.casefold() for name in names}) == len(keys)
    assert all(name and len(name.encode()) <= 153 and "/" not in name for name in names)
    assert not any(name.startswith(".") for name in names)
