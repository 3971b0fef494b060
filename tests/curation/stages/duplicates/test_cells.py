"""The join by cells: the exact pairs whose images share a cell, each once, and its recall."""

import sys

import numpy as np
import pool as pools
import pytest

from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.tables import read_pairs
from dinoforge.errors import UsageError
from dinoforge.stages import make_inputs

CELLS = ("duplicates.join=cells", "duplicates.cells=6", "duplicates.cells_per_image=2")
FLOOR = ("duplicates.floor=0.6", "duplicates.threshold=0.75")


@pytest.fixture(scope="module")
def joined(pool, tmp_path_factory):
    """Run a curation with a low floor under other keys; once each."""
    runs = {}

    def run(*keys, on="in-process"):
        if (keys, on) not in runs:
            config = pools.recipe(pool.sources, tmp_path_factory.mktemp("run"), *FLOOR, *keys)
            summary = pools.curated(config, on=on)
            runs[keys, on] = (
                make_inputs("curation", STAGES, pools.Path(config.out), config),
                summary,
            )
        return runs[keys, on]

    return run


def as_dict(inputs):
    i, j, similarity = (column.tolist() for column in read_pairs(inputs))
    assert len(set(zip(i, j, strict=True))) == len(i), "a pair comes twice"
    return dict(zip(zip(i, j, strict=True), similarity, strict=True))


def test_pairs_are_the_exact_ones_of_images_that_share_a_cell(joined):
    exact, (inputs, summary) = as_dict(joined()[0]), joined(*CELLS)
    images = np.load(inputs.file("exact", "images.npy"))
    nearest = np.concatenate([np.load(path) for path in inputs.files("assign", "nearest.npy")])
    cells = dict(zip(images.tolist(), map(set, nearest.tolist()), strict=True))
    # References are compared with all images.
    shared = {
        (i, j): similarity
        for (i, j), similarity in exact.items()
        if not {i, j} <= cells.keys() or cells[i] & cells[j]
    }
    assert as_dict(inputs) == shared
    assert len(exact) > len(shared) > 0.3 * len(exact)
    assert any(not {i, j} <= cells.keys() for i, j in shared)
    assert summary.join["method"] == "cells"
    assert summary.join["cells"] == 6
    assert summary.join["compared"] < joined()[1].join["compared"]


def test_the_recall_of_all_images_is_the_true_one(joined):
    exact, (inputs, summary) = as_dict(joined()[0]), joined(*CELLS)
    images = set(np.load(inputs.file("exact", "images.npy")).tolist())
    pairs = as_dict(inputs)
    for name, threshold in (("recall", 0.75), ("recall_above_floor", 0.6)):
        total, hits = (
            2 * sum({i, j} <= images and s > threshold for (i, j), s in pairs_of.items())
            for pairs_of in (exact, pairs)
        )
        assert (summary.join[name]["hits"], summary.join[name]["n"]) == (hits, total)
    assert summary.join["images_linked"]["value"] >= summary.join["recall"]["value"]
    (remark,) = (line for line in summary.remarks if "cells" in line)
    assert f"{summary.join['recall']['value']:.4f}" in remark


def test_two_workers_write_the_same_bytes(joined):
    runs = [joined(*CELLS, on=on)[0].run_folder for on in ("in-process", "local:2")]
    assert pools.differences(*runs) == []


def test_a_cell_with_all_images_is_joined_in_blocks_and_misses_nothing(joined):
    one = ("duplicates.join=cells", "duplicates.cells=1", "duplicates.cells_per_image=1")
    inputs, summary = joined(
        *one, "duplicates.block_images=8", "duplicates.blocks_per_partition=64"
    )
    assert any("cell" in payload for payload in _payloads(inputs))
    assert as_dict(inputs) == as_dict(joined()[0])
    assert summary.join["compared"] == joined()[1].join["compared"]
    assert summary.join["recall"]["value"] == 1


def test_a_sample_of_the_images_gives_fewer_pairs(joined):
    _, whole = joined(*CELLS)
    _, part = joined(*CELLS, "duplicates.recall_images=40")
    assert part.join["sampled_images"] == 40
    assert part.join["recall_above_floor"]["n"] < whole.join["recall_above_floor"]["n"]


def test_without_faiss_a_recipe_with_cells_is_refused_before_anything_is_read(
    pool, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match="FAISS is not installed"):
        pools.curated(pools.recipe(pool.sources, tmp_path / "run", *CELLS))
    assert not (tmp_path / "run/curation").exists()


def _payloads(inputs):
    graph = next(stage for stage in STAGES if stage.name == "graph")
    return graph.plan(inputs.scoped(graph))
