"""Scores in a run: measured once, compared late, in the ledger and in the exported samples."""

import json
import shutil
import sys

import numpy as np
import pool as pools
import pytest
from PIL import Image, ImageFilter
from skimage import data

from dinoforge.curated import ledger_path
from dinoforge.shards.reading import read_samples
from dinoforge.tables import read_table

SCORES = "scores=[{name: blur, scorer: blur}, {name: area, scorer: python:area_scorer:area}%s]"
WHERE = "filter.where=blur < 1.3 and area > 100 and area_2 == 2"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two sharp pictures, one blurred, one of a single gray value, and one that is damaged."""
    folder = tmp_path_factory.mktemp("score")
    photograph = Image.fromarray(data.astronaut()).resize((160, 160))
    photograph.save(folder / "sharp.png")
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    photograph.filter(ImageFilter.GaussianBlur(4)).save(folder / "blurred.png")
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(folder / "gray.png")
    (folder / "damaged.png").write_bytes(b"no")
    (folder / "code").mkdir()
    text = "def area(images): return [(i.shape[0] * i.shape[1], 2) for i in images]\n"
    (folder / "code/area_scorer.py").write_text(text + "area.columns = ['', '2']\n")
    sys.path.insert(0, str(folder / "code"))
    yield [{"role": "pool", "paths": [f"{folder}/*.png"]}]
    sys.path.remove(str(folder / "code"))


def recipe(sources, out, *more):
    few = ("retrieve.mode=none", "plant.count=0", "partition_images=2", "filter.min_std=0")
    return pools.recipe(sources, out, *few, *more)


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory):
    run = tmp_path_factory.mktemp("score") / "run"
    pools.curated(recipe(sources, run, SCORES % "", WHERE))
    return run


def test_a_condition_compares_scores(run):
    rows = {row["key"]: row for row in pools.ledger(run)}
    assert {key: row["reason"] for key, row in rows.items()} == {
        "sharp": "kept",
        "cat": "kept",
        "blurred": "filtered_out",
        "gray": "missing_value",  # there is no detail to be sharp or blurred
        "damaged": "undecodable",
    }
    assert rows["blurred"]["detail"].endswith("area 25600, area_2 2")
    assert rows["gray"]["detail"] == "blur (none), area 1024, area_2 2"


def test_scores_are_in_the_ledger_and_in_the_samples(run):
    table = read_table(ledger_path(run))
    assert table.column_names[-3:] == ["scores.blur", "scores.area", "scores.area_2"]
    area = {row["key"]: row["scores.area"] for row in table.to_pylist()}
    assert area == {
        "sharp": 25600,
        "cat": 300 * 451,
        "blurred": 25600,
        "gray": 1024,
        "damaged": None,
    }
    (shard,) = (run / "shards").glob("*.tar")
    notes = [json.loads(members["json"]) for _, members in read_samples(shard)]
    assert {note["key"]: note["scores"]["area"] for note in notes} == {
        "sharp": 25600,
        "cat": 135300,
    }
    assert all(0.3 < note["scores"]["blur"] < 1.3 for note in notes)


def scored(run):
    return {
        path.name: path.stat().st_mtime_ns for path in (run / "curation/23-score").glob("*.done")
    }


def test_other_conditions_and_further_scorers_measure_nothing_again(sources, run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    before = scored(run)
    assert len(before) == 6  # two scorers, three ranges
    pools.curated(recipe(sources, run, SCORES % "", "filter.where=blur > 1.3"), on_change="update")
    assert [row["key"] for row in pools.ledger(run) if row["decision"] == "kept"] == ["blurred"]
    assert scored(run) == before
    # Another measure of the pixels was measured with the first.
    more = SCORES % ", {name: how_dark, scorer: dark}"
    pools.curated(recipe(sources, run, more, "filter.where=how_dark < 1"), on_change="update")
    assert scored(run) == before
    more = SCORES % ", {name: h, scorer: python:heights:h}"
    (tmp_path / "heights.py").write_text("def h(images): return [i.shape[0] for i in images]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        pools.curated(recipe(sources, run, more, "filter.where=h == 300"), on_change="update")
    assert [row["key"] for row in pools.ledger(run) if row["decision"] == "kept"] == ["cat"]
    assert {name: time for name, time in scored(run).items() if name in before} == before
    assert len(scored(run)) == 9


def test_a_name_that_has_a_meaning_is_refused(sources, tmp_path):
    with pytest.raises(Exception, match=r"`scores\[0\].name` is `width`, which has a meaning"):
        recipe(sources, tmp_path, "scores=[{name: width, scorer: dark}]")
