"""Which images the clusters keep: the target shared out evenly from the highest level down."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dinoforge.clusters.sampling import choose_rows, share_over_levels
from dinoforge.curation.policies.slots import gini
from dinoforge.curation.stored.balance import BALANCED_SCHEMA, CLUSTERS_SCHEMA, read_open_pool
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["BalanceStage"]

Ids = NDArray[np.int64]


class BalanceStage(CurationStage):
    """Choose the images of the target from the clusters; count them per cluster."""

    name = "balance"
    number = 72
    keys = ("balance.target", "balance.choose", "retrieve.mode", "seed")
    execution_keys = ("base",)
    needs = ("clusters", "retrieve")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none without clusters."""
        has_clusters = inputs.config.balance.target and inputs.facts("clusters")
        return [{}] if has_clusters else []

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Share out the target over the images that no seed retrieved."""
        policy, seed = inputs.config.balance, inputs.config.seed
        described = inputs.facts("clusters")[0]["levels"]
        ids = np.load(inputs.file("clusters", "ids.npy"))
        distances = np.load(inputs.file("clusters", "distances.npy"))
        labels, *parents = (
            np.load(inputs.file("clusters", f"labels-{number}.npy"))
            for number in range(1, len(described) + 1)
        )
        is_open = read_open_pool(inputs, ids)
        sizes = np.bincount(labels[is_open], minlength=described[0]["clusters"])
        shares = share_over_levels(sizes, parents, policy.target, seed=seed)
        chosen = np.zeros(len(ids), np.bool_)
        chosen[is_open] = choose_rows(
            labels[is_open],
            shares[0],
            ids[is_open],
            distances=distances[is_open],
            rule=policy.choose,
            seed=seed,
        )
        out.write_table("balanced", [ids, labels, distances, chosen], BALANCED_SCHEMA)
        every = [sizes]
        for parent, above in zip(parents, described[1:], strict=True):
            every.append(np.bincount(parent, every[-1], above["clusters"]).astype(np.int64))
        out.write_table("clusters", _clusters(every, shares, parents), CLUSTERS_SCHEMA)
        counts = [_spread(images, kept) for images, kept in zip(every, shares, strict=True)]
        return {
            "target": policy.target,
            "images": int(np.count_nonzero(is_open)),
            "kept": int(np.count_nonzero(chosen)),
            "levels": [facts | count for facts, count in zip(described, counts, strict=True)],
        }


def _clusters(sizes: list[Ids], shares: list[Ids], parents: list[NDArray[np.int32]]) -> pa.Table:
    parts = []
    for number, (images, kept) in enumerate(zip(sizes, shares, strict=True)):
        is_highest = number == len(parents)
        parent = np.full(len(images), -1, np.int32) if is_highest else parents[number]
        level = np.full(len(images), number + 1, np.int32)
        columns = [level, np.arange(len(images), dtype=np.int32), parent, images, kept]
        parts.append(pa.table(columns, schema=CLUSTERS_SCHEMA))
    return pa.concat_tables(parts)


def _spread(images: Ids, kept: Ids) -> Json:
    """Count the largest cluster and how uneven all are, before and after."""
    return {
        "largest": int(images.max(initial=0)),
        "largest_kept": int(kept.max(initial=0)),
        "gini": round(gini(images), 6),
        "gini_kept": round(gini(kept), 6),
    }
