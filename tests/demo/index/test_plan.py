"""The plan of an index, against counts by hand and against what an index takes."""

import json

import pytest

from dinoforge.cli.main import main
from dinoforge.demo.index.kinds import choose_kinds, kind_bytes
from dinoforge.demo.index.reader import open_index

GIB = 2**30


def test_five_million_images_by_hand(capsys):
    assert main(["plan", "millions", "--images", "5e6", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["partitions"] == 1221
    assert plan["bytes"]["patches"] == 5_000_000 * 16 * 16 * 384 * 2
    assert plan["bytes"]["vectors"] == 2 * 5_000_000 * 384 * 2
    # 48 bytes of codes per row, and 8 of its number if there are cells.
    assert plan["memory"]["vectors"] == 5_000_000 * 48
    assert plan["memory"]["regions"] >= 40_000_000 * 56
    assert plan["kinds"] == {"vectors": "pq", "regions": "ivf"}
    assert main(["plan", "millions"]) == 2
    assert "number of images is unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("memory", "kinds"),
    [
        (8 * GIB, {"vectors": "flat", "regions": "flat"}),
        (2 * GIB, {"vectors": "flat", "regions": "pq"}),
        (1 * GIB, {"vectors": "pq", "regions": "pq"}),
        (1, {"vectors": "pq", "regions": "pq"}),
    ],
)
def test_vectors_stay_exact_longer_than_regions(memory, kinds):
    shapes = {"vectors": (1_200_000, 384), "regions": (9_600_000, 384)}
    assert choose_kinds(shapes, memory) == kinds
    needed = sum(kind_bytes(kind, shapes[name]) for name, kind in kinds.items())
    assert needed <= memory or memory == 1


def test_planned_bytes_are_those_of_an_index(index):
    card = open_index(index).card
    searched = card["search"]
    assert searched["vectors"]["bytes"] == kind_bytes("flat", (20, 32)) == 20 * 32 * 2
    assert card["bytes"]["vectors"] == 20 * 32 * 2 + 128  # the header of NumPy
    assert card["bytes"]["patches"] == card["num_patches"] * 32 * 2


def test_tables_of_too_few_rows_for_codes_stay_flat():
    assert choose_kinds({"vectors": (15, 32), "regions": (16, 32)}, 1) == {
        "vectors": "flat",
        "regions": "pq",
    }
