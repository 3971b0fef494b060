"""Clusters that balance a pool, as contact sheets: what each had, and what it keeps."""

from dataclasses import dataclass

import numpy as np

from dinoforge.curated import clusters_path
from dinoforge.evaluation.report.ledger import Ledger
from dinoforge.tables import read_table

__all__ = ["ShownCluster", "choose_clusters"]

_CLUSTERS, _KEPT, _DROPPED = 12, 8, 4


@dataclass(frozen=True, kw_only=True)
class ShownCluster:
    """A cluster of the first level, its sizes and some of its images."""

    cluster: int
    images: int  # before
    kept: int  # after
    shown_kept: list[int]  # image ids
    shown_dropped: list[int]


def choose_clusters(ledger: Ledger) -> tuple[list[ShownCluster], int]:
    """Choose clusters from the largest to the smallest; returns them and how many there are.

    Of the images of a cluster those with the smallest ids are shown.
    """
    path = clusters_path(ledger.run_folder)
    if not path.is_file():
        return [], 0
    table = read_table(path, ["level", "cluster", "images", "kept"])
    level, cluster, images, kept = (column.to_numpy() for column in table.columns)
    is_used = (level == 1) & (images > 0)
    cluster, images, kept = cluster[is_used], images[is_used], kept[is_used]
    order = np.lexsort((cluster, -images))
    # Ever finer towards the largest: most clusters are small and alike.
    places = np.unique(np.rint(np.geomspace(1, len(order), _CLUSTERS)).astype(np.int64)) - 1
    own = ledger.own()
    shown = []
    for at in order[places].tolist():
        is_member = own["cluster"] == cluster[at]
        rows = [
            ledger.first + np.flatnonzero(is_member & (own["reason"] == reason))
            for reason in ("kept", "not_balanced")
        ]
        shown.append(
            ShownCluster(
                cluster=int(cluster[at]),
                images=int(images[at]),
                kept=int(kept[at]),
                shown_kept=rows[0][:_KEPT].tolist(),
                shown_dropped=rows[1][:_DROPPED].tolist(),
            )
        )
    return shown, len(order)
