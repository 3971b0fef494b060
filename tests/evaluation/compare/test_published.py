"""Published numbers: each has a source and a place; they stand only beside their own kind."""

import dataclasses
import re

import pytest
import yaml

from dinoforge.config.load import find_recipe
from dinoforge.evaluation.compare.comparison import Cell, Column, Comparison, Row
from dinoforge.evaluation.compare.published import read_published, with_published
from dinoforge.records import Record

# Metrics of protocols, with the range that their values are in.
METRICS = {
    "accuracy": (0, 1),
    "map": (0, 1),
    "mean_iou": (0, 1),
    "corloc": (0, 1),
    "rmse": (0.1, 10),
}


def compared(benchmark, metric="accuracy", n=50000, name="trained", **settings):
    record = Record(
        benchmark=benchmark, model=name, metric=metric, value=0.7, n=n, settings=settings
    )
    return Comparison(
        rows=(Row(name=name, sources=("runs/trained",)),),
        columns=(Column(benchmark=benchmark, metric=metric, n=n, data=""),),
        cells=((Cell(value=0.7, records=(record,)),),),
        differences=((None,),),
    )


def shown(comparison):
    rows = zip(comparison.rows, comparison.cells, strict=True)
    of_rows = {row.name: cells for row, cells in rows if row.is_published}
    assert all(name.endswith(" (published)") for name in of_rows)
    return {name.removesuffix(" (published)"): cells for name, cells in of_rows.items()}


@pytest.mark.parametrize("number", read_published(), ids=lambda n: f"{n.model} {n.benchmark}")
def test_every_number_has_a_source_a_range_and_names_that_the_suite_knows(number):
    assert re.search(r"\w+/\w+ [0-9a-f]{7}, \w+", number.source)
    low, high = METRICS[number.metric]
    assert low < number.value < high
    assert number.n > 0
    assert number.selection in {"none", "test-peek"}
    assert number.model
    assert number.remark
    protocol, data, *test = number.benchmark.split("/")
    sets = yaml.safe_load(find_recipe("evaluation", "full").read_text())["sets"]
    assert data in sets
    assert set(test) <= set(sets[data].get("tests", {}))
    assert protocol in {
        *(sets[data].get("protocols") or ["depth", "segmentation", "discovery"]),
        "ranking_hard",
        "copies_whitened",
    }


def test_no_model_has_two_numbers_of_one_kind():
    keys = [(n.model, n.benchmark, n.metric) for n in read_published()]
    assert len(keys) == len(set(keys))
    assert len(keys) > 80


def test_numbers_stand_as_they_were_published():
    knn = shown(with_published(compared("knn/imagenet", k=20)))
    assert knn["DINO ViT-S/16"][0].value == 0.745
    assert knn["DINOv2 ViT-g/14"][0].value == 0.835
    assert knn["DINOv2 ViT-L/14, registers"][0].value == 0.838
    depth = shown(with_published(compared("depth/nyu", "rmse", 654, features="v2-lin4")))
    assert {name: cells[0].value for name, cells in depth.items()} == {
        "DINOv2 ViT-S/14": 0.417,
        "DINOv2 ViT-B/14": 0.362,
        "DINOv2 ViT-L/14": 0.333,
        "DINOv2 ViT-g/14": 0.298,
    }
    linear = shown(with_published(compared("linear/imagenet")))["DINOv2 ViT-S/14"][0]
    assert (linear.value, linear.selection, linear.interval) == (0.811, "test-peek", None)
    assert linear.records[0].settings["remark"] == "52 heads"


def test_published_rows_are_set_apart_from_what_was_measured():
    before = compared("knn/imagenet", k=20)
    after = with_published(before)
    assert after.rows[0] == before.rows[0]
    assert after.cells[0] == before.cells[0]
    assert all(row.sources for row in after.rows[1:])
    assert all(row == (None,) for row in after.differences)
    assert not any(cells[0].is_bold for cells in after.cells)
    assert after.tests == 0


def test_a_synonym_of_a_data_set_is_understood_and_other_sets_get_nothing():
    assert shown(with_published(compared("knn/imagenet1k", k=20)))
    for other in (compared("knn/imagenette", k=20), compared("knn/imagenet", "top_5", k=20)):
        assert with_published(other) == other


def test_a_small_set_of_that_name_is_noted_and_gets_no_row():
    result = with_published(compared("knn/imagenet", n=1000, k=20))
    assert not shown(result)
    assert result.notes == (
        "knn/imagenet: published numbers are not shown, their test set has 50,000 units, not "
        "1,000: DINO ViT-S/16 and 20 more",
    )
    # A few images that do not decode are not another set.
    assert shown(with_published(compared("knn/imagenet", n=49990, k=20)))


def test_another_head_is_noted_and_gets_no_row():
    result = with_published(compared("depth/nyu", "rmse", 654, features="v3-lin4"))
    assert not shown(result)
    assert result.notes[0].endswith("they are for features = v2-lin4: DINOv2 ViT-S/14 and 3 more")


def test_a_run_of_the_same_name_is_another_row():
    result = with_published(compared("knn/imagenet", name="DINO ViT-S/8", k=20))
    names = [row.name for row in result.rows]
    assert {"DINO ViT-S/8", "DINO ViT-S/8 (published)"} <= set(names)
    assert len(set(names)) == len(names)


def test_a_note_names_every_source():
    result = with_published(
        compared("discovery/coco20k", "corloc", 19817, features="LOST, keys", side=0)
    )
    assert result.notes == (
        "published, not measured here: DINO ViT-S/16 and 3 more: README of valeoai/LOST 05a3aeb, "
        "Different models",
    )


def test_one_row_holds_all_numbers_of_a_model():
    one, other = compared("knn/imagenet", k=20), compared("linear/imagenet")
    joined = dataclasses.replace(
        one,
        columns=one.columns + other.columns,
        cells=((*one.cells[0], *other.cells[0]),),
        differences=((None, None),),
    )
    assert [cell.value for cell in shown(with_published(joined))["DINOv2 ViT-B/14"]] == [
        0.821,
        0.845,
    ]
