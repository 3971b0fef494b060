"""A balanced curation: the target exactly, the shares of every level, what the recipe refuses."""

import json
from collections import Counter

import numpy as np
import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.config import load_config
from dinoforge.curated import clusters_path, summary_path
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.remarks import balance_remarks
from dinoforge.errors import UsageError
from dinoforge.tables import read_table


def test_the_clusters_of_every_level_keep_the_target_exactly(kept_run):
    balance = json.loads(summary_path(kept_run).read_text())["balance"]
    assert (balance["target"], balance["kept"]) == (70, 70)
    clusters = read_table(clusters_path(kept_run)).to_pandas()
    assert clusters.groupby("level").kept.sum().tolist() == [70, 70]
    assert clusters.groupby("level").images.sum().tolist() == 2 * [balance["images"]]
    below, above = (clusters[clusters.level == level] for level in (1, 2))
    sums = below.groupby("parent")[["images", "kept"]].sum()
    np.testing.assert_array_equal(sums, above[["images", "kept"]])
    for _, siblings in [*below.groupby("parent"), (-1, above)]:
        is_cut = siblings.kept < siblings.images
        cut = siblings.kept[is_cut].min() if is_cut.any() else siblings.images.max()
        assert (siblings.kept >= np.minimum(siblings.images, cut)).all()
        assert (siblings.kept <= cut + 1).all()


def test_the_ledger_has_the_cluster_of_every_image_that_was_clustered(kept_run):
    rows = [row for row in pools.ledger(kept_run) if row["cluster"] is not None]
    clusters = read_table(clusters_path(kept_run)).to_pandas()
    first = clusters[clusters.level == 1]
    assert Counter(row["cluster"] for row in rows) == dict(
        zip(first.cluster, first.images, strict=True)
    )
    reasons = Counter(row["reason"] for row in rows)
    assert reasons == {"kept": 69, "taken_down": 1, "not_balanced": len(rows) - 70}


def test_work_that_helpers_shared_is_removed(kept_run):
    assert not list(kept_run.glob("curation/66-clusters/work-*"))


def test_more_clusters_than_images_are_refused_in_one_line(pool, kept_run, tmp_path):
    sources = [{"role": "pool", "paths": [str(pool.folder / "seeds")]}]
    balance = ["balance.target=5", "balance.levels=[900,5]"]
    config = pools.recipe(sources, tmp_path / "run", "retrieve.mode=none", *balance)
    with pytest.raises(UsageError, match=r"900 clusters of \d+ images") as refused:
        pools.curated(config)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (["balance.target=5"], r"`balance.levels` without|`balance.target`"),
        (["balance.levels=[5]"], r"`balance.target`"),
        (["balance.target=5", "balance.levels=[5,5]"], "fewer clusters than the one before"),
        (
            ["balance.target=5", "balance.levels=[5]", "retrieve.mode=seeds"],
            "set retrieve.keep=all",
        ),
        (["balance.target=5", "balance.levels=[5]", "base=runs/a"], "in one run"),
    ],
)
def test_a_balance_without_meaning_is_a_fault_of_the_recipe(changes, fault):
    sources = [{"role": role, "paths": ["photos"]} for role in ("pool", "seed")]
    with pytest.raises(UsageError, match=fault):
        load_config(CurationConfig, None, [f"sources={json.dumps(sources)}", *changes])


def test_a_target_above_what_is_left_and_empty_clusters_are_reported():
    levels = [{"empty": 3}, {"empty": 0}]
    balance = {"target": 90, "kept": 80, "images": 80, "levels": levels}
    short, empty = balance_remarks(balance)
    assert short == "balance.target is 90, only 80 images were left: all of them are kept"
    assert empty.endswith("level 1: 3")
    assert balance_remarks(balance | {"target": 80, "levels": levels[1:]}) == []


def test_the_report_shows_clusters_with_their_sizes_before_and_after(kept_run, tmp_path, capsys):
    assert main(["report", str(tmp_path / "report"), "--curation", str(kept_run)]) == 0
    page = (tmp_path / "report/report.html").read_text()
    section = page.partition('<section id="clusters">')[2].partition("</section>")[0]
    clusters = read_table(clusters_path(kept_run)).to_pandas()
    largest = clusters[clusters.level == 1].sort_values("images").iloc[-1]
    assert f"{largest.images} images before, {largest.kept} after" in section
    assert section.count('class="shot from"') > 20
