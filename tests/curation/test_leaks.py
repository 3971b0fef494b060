"""Leaks between two sets: how an image occurs, counted per set, with pictures of the pairs."""

import csv
import io
import json
import shutil
import sys

import numpy as np
import pool as pools
import pytest
from optional import optional
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.config import find_recipe, load_recipe
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.leaks import KINDS, LEAKS_PIPELINE
from dinoforge.verification.features import opencv

optional("cv2", "verify")

NEAR = "near-duplicate"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder to search and two test sets: copies of every kind, the same file, strangers."""
    folder = tmp_path_factory.mktemp("sets")
    pools.write_tiles(folder / "tiles", tile=64, stride=170)
    pictures = sorted((folder / "tiles/pool").rglob("*.png"))
    train, first, second = (folder / name for name in ("train", "first", "second"))
    for name in (train / "sub", first, second):
        name.mkdir(parents=True)
    for number, path in enumerate(pictures[:30]):
        shutil.copy(path, train / f"train_{number}.png")
    shutil.copy(pictures[0], first / "bytes.png")
    picture = Image.open(pictures[1])
    picture.save(first / "pixels.png", dpi=(72, 72))
    picture.save(first / "jpeg.jpg", quality=60)
    Image.fromarray(np.asarray(Image.open(pictures[2]))[:, ::-1]).save(second / "mirrored.png")
    for number, path in enumerate(pictures[30:40]):
        shutil.copy(path, first / f"other_{number}.png")
    shutil.copy(pictures[40], train / "sub/shared.png")
    (second / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def run(sets, out, *words):
    words = ["leaks", str(sets / "train"), f"{sets / 'first'},{sets / 'second'}", *words]
    return main([*words, "--out", str(out), "-q"])


@pytest.fixture(scope="module")
def done(sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("leaks") / "run"
    assert run(sets, out) == 0
    return out


def test_every_set_is_counted_by_how_its_images_occur(done):
    summary = json.loads((done / "leaks.json").read_text())
    assert summary["pool_images"] == 31
    first, second = summary["sets"]
    assert (first["name"], first["images"], first["leaked"]) == ("first", 13, 3)
    assert first["kinds"] == dict(zip(KINDS, [0, 1, 1, 1], strict=True))
    assert (second["name"], second["images"], second["undecodable"]) == ("second", 2, 1)
    assert second["kinds"][NEAR] == second["leaked"] == 1


def test_the_table_names_every_image_with_the_most_similar_of_the_pool(done, sets):
    rows = list(csv.DictReader(io.StringIO((done / "leaks.csv").read_text())))
    named = {row["key"]: (row["pool_key"], row["kind"]) for row in rows}
    assert named == {
        "bytes": ("train_0", "same bytes"),
        "pixels": ("train_1", "same pixels"),
        "jpeg": ("train_1", NEAR),
        "mirrored": ("train_2", NEAR),
    }
    similarities = [float(row["similarity"]) for row in rows]
    assert similarities == sorted(similarities, reverse=True)
    assert all(row["path"].startswith(str(sets)) for row in rows)


def test_the_page_shows_the_pairs_and_needs_nothing_outside(done):
    page = (done / "leaks.html").read_text()
    assert "4 of 15 images occur in the pool" in page
    assert page.count('<img src="data:image/jpeg;base64,') >= 8
    assert "http" not in page.replace("http-equiv", "")


def test_the_recipe_compares_every_picture_and_exports_nothing(done):
    config = load_recipe(
        CurationConfig, find_recipe("curation", "leaks"), ["sources=[{paths: [x]}]", "out=x"]
    ).config
    assert (config.filter.min_side, config.filter.min_std) == (1, 0)
    assert not (done / "shards").exists()
    names = [stage.name for stage in LEAKS_PIPELINE.stages]
    assert names[-1] == "decontaminate"
    assert not {"components", "select", "export"} & set(names)


def test_a_file_of_both_sets_is_a_leak_too(sets, tmp_path):
    shared = sets / "train/sub"
    out = tmp_path / "run"
    words = ["leaks", str(sets / "train"), str(sets / "first"), "--out", str(out), "-q"]
    # A folder of its own would be all shared: see the next test.
    (tmp_path / "set").mkdir()
    (tmp_path / "set/link").symlink_to(shared)
    shutil.copy(sets / "first/other_0.png", tmp_path / "set/stranger.png")
    words[2] = str(tmp_path / "set")
    assert main(words) == 0
    (counts,) = json.loads((out / "leaks.json").read_text())["sets"]
    assert (counts["images"], counts["leaked"], counts["kinds"]["same file"]) == (2, 1, 1)
    (row,) = csv.DictReader(io.StringIO((out / "leaks.csv").read_text()))
    assert (row["key"].split("/")[-1], row["kind"]) == ("shared", "same file")


def test_a_set_that_lies_in_the_pool_as_a_whole_is_one_clear_error(sets, tmp_path, capsys):
    words = ["leaks", str(sets / "train"), str(sets / "train/sub"), "--out", str(tmp_path / "r")]
    assert main([*words, "-q"]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert "1 of 1 images are also" in line


def test_a_changed_threshold_compares_nothing_again(sets, done, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(done, out)
    assert run(sets, out, "decontaminate.threshold=0.9999") == 2
    assert "decontaminate.threshold" in capsys.readouterr().err
    pairs = next((out / "curation").glob("*-graph/*.pairs.parquet"))
    before = pairs.stat().st_mtime_ns
    assert run(sets, out, "--update", "decontaminate.threshold=0.9999") == 0
    assert pairs.stat().st_mtime_ns == before
    summary = json.loads((out / "leaks.json").read_text())
    # A mirrored picture has the same descriptor.
    assert [one["kinds"][NEAR] for one in summary["sets"]] == [0, 1]
    assert {miss["key"] for miss in summary["misses"]} >= {"jpeg"}


def test_without_opencv_one_line_names_the_extra_and_the_way_without(
    sets, tmp_path, capsys, monkeypatch
):
    opencv.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert run(sets, tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'pip install "dinoforge[verify]", or set duplicates.verify.mode=none' in line
    assert run(sets, tmp_path / "off", "duplicates.verify.mode=none") == 0


def test_a_finished_curation_is_a_pool(calm, pool, tmp_path, capsys):
    words = ["leaks", str(calm), str(pool.folder / "seeds"), "--out", str(tmp_path / "run")]
    assert main([*words, "--json", "-q"]) == 0
    (counts,) = json.loads(capsys.readouterr().out)["sets"]
    kept = sum(row["source"] == "seed" for row in pools.ledger(calm) if row["out_key"])
    assert counts["kinds"]["same bytes"] >= kept > 0
