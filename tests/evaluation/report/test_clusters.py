"""Clusters in the report: which are shown, and which of their images."""

import numpy as np
import pyarrow as pa

from dinoforge.curated import clusters_path
from dinoforge.curation.stored.balance import CLUSTERS_SCHEMA
from dinoforge.evaluation.report.clusters import choose_clusters
from dinoforge.evaluation.report.ledger import Ledger
from dinoforge.tables import write_table


def test_clusters_are_shown_from_the_largest_to_the_smallest(tmp_path):
    sizes = np.r_[np.arange(1, 31), 0]
    kept, num = np.minimum(sizes, 5), len(sizes)
    parents = np.zeros(num, np.int32)
    columns = [np.ones(num, np.int32), np.arange(num, dtype=np.int32), parents, sizes, kept]
    path = clusters_path(tmp_path)
    path.parent.mkdir()
    write_table(path, pa.table(columns, schema=CLUSTERS_SCHEMA), CLUSTERS_SCHEMA)
    cluster = np.repeat(np.arange(num), sizes)
    within = np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    reason = np.where(within < kept[cluster], "kept", "not_balanced")
    shown, total = choose_clusters(Ledger({"cluster": cluster, "reason": reason}, tmp_path))
    assert total == 30
    assert [one.images for one in shown] == sorted((one.images for one in shown), reverse=True)
    assert (shown[0].images, shown[-1].images) == (30, 1)
    for one in shown:
        assert one.kept == min(one.images, 5) == len(one.shown_kept)
        assert len(one.shown_dropped) == min(one.images - one.kept, 4)
        rows = one.shown_kept + one.shown_dropped
        assert (cluster[rows] == one.cluster).all()
        assert (reason[one.shown_kept] == "kept").all()


def test_a_run_that_was_not_balanced_has_no_clusters(tmp_path):
    assert choose_clusters(Ledger({}, tmp_path)) == ([], 0)
