"""Levels of clusters of the surviving pool, by k-means that all partitions share.

A partition is not a part of the images but a helper: see `dinoforge.clusters.work`.
"""

import shutil
from functools import partial

from dinoforge.clusters.hierarchy import check_levels, cluster_levels
from dinoforge.clusters.lloyd import Clustering, KMeans, Points
from dinoforge.clusters.work import SharedWork
from dinoforge.curation import tables
from dinoforge.curation.stored.balance import meaning_stage
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.files import hash_json, write_text
from dinoforge.stages import Json, Output
from dinoforge.stages.task import read_marker

__all__ = ["ClustersStage", "remove_work"]

_READ = ("filter", "components", "decontaminate", "embed", "embed-meaning")
_MOST_HELPERS = 256  # partitions: processes that can share the work


class ClustersStage(CurationStage):
    """Cluster the embeddings of similar content, then the centroids, level by level."""

    name = "clusters"
    number = 66
    keys = (
        *("balance.levels", "balance.iterations", "balance.resampling", "balance.sample_share"),
        *("balance.block_images", "retrieve.encoder", "retrieve.keep_seeds", "duplicates.encoder"),
        "seed",
    )
    execution_keys = ("balance.target", "partition_images", "device", "base")
    needs = _READ
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan a helper per block of images; none without a balance, or without an image left."""
        policy = inputs.config.balance
        _, pool = tables.read_survivors(inputs)
        if not policy.target or not len(pool):
            return []
        check_levels(policy.levels, len(pool), "`balance.levels`")
        helpers = min(-(-len(pool) // policy.block_images), _MOST_HELPERS)
        read = [read_marker(path) for need in _READ for path in inputs.files(need, "done")]
        work = hash_json([marker.fingerprint if marker else "" for marker in read])
        return [{"helper": number, "helpers": helpers, "work": work} for number in range(helpers)]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Help until all is done; the first helper writes the clusters."""
        policy = inputs.config.balance
        settings = [list(policy.levels), policy.iterations, list(policy.resampling)]
        settings += [policy.sample_share, policy.block_images, inputs.config.seed]
        work = hash_json([payload["work"], settings, meaning_stage(inputs.config), self.version])
        folder = out.folder / f"work-{work[:16]}"
        for other in set(out.folder.glob("work-*")) - {folder}:
            shutil.rmtree(other, ignore_errors=True)  # of another recipe
        is_first, done = payload["helper"] == 0, folder / "done"
        if done.exists() and not is_first:
            return {}
        _, pool = tables.read_survivors(inputs)
        points = Points(partial(tables.read_embeddings, inputs, meaning_stage(inputs.config)), pool)
        kmeans = KMeans(
            iterations=policy.iterations,
            seed=inputs.config.seed,
            block_rows=policy.block_images,
            device=inputs.config.device,
            work=SharedWork(folder, payload["helper"], payload["helpers"]),
        )
        levels = cluster_levels(
            points,
            policy.levels,
            kmeans,
            resampling=policy.resampling,
            sample_share=policy.sample_share,
        ).levels
        write_text(done, "")
        if not is_first:
            return {}
        out.write_array("ids", pool)
        out.write_array("distances", levels[0].distances)
        for number, level in enumerate(levels, 1):
            out.write_array(f"centroids-{number}", level.centroids)
            out.write_array(f"labels-{number}", level.labels)
        return {"images": len(pool), "levels": [_facts(level) for level in levels]}


def _facts(level: Clustering) -> Json:
    return {
        "clusters": len(level.centroids),
        "empty": level.num_empty,
        "reseeded": level.num_reseeded,
        "iterations": level.num_iterations,
        "objective": level.objective,
    }


def remove_work(inputs: CurationInputs) -> None:
    """Remove what helpers shared, at the end of a run."""
    for folder in inputs.folder("clusters").glob("work-*"):
        shutil.rmtree(folder, ignore_errors=True)
