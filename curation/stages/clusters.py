"""Levels of clusters of the surviving pool, by k-means that all partitions share.

A partition is not a part of the images but a helper: see `dinoforge.clusters.work`.
"""

import shutil
from dataclasses import asdict
from functools import partial

import numpy as np

from dinoforge.clusters.blocks import Points
from dinoforge.clusters.hierarchy import LevelPolicy, check_levels, cluster_levels
from dinoforge.clusters.lloyd import Clustering, KMeans
from dinoforge.clusters.nearest import assign_rows
from dinoforge.clusters.work import SharedWork
from dinoforge.curation import tables
from dinoforge.curation.config import BalanceConfig
from dinoforge.curation.stored.balance import meaning_stage
from dinoforge.curation.stored.decisions import read_survivors
from dinoforge.curation.stored.seed_sets import read_seed_set
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.files import hash_json, write_text
from dinoforge.stages import Json, Output
from dinoforge.stages.task import read_marker

__all__ = [
    "MOST_HELPERS",
    "ClustersStage",
    "PoolClustersStage",
    "SeedClustersStage",
    "level_policies",
    "remove_work",
]

_READ = ("survivors", "embed", "embed-meaning")
MOST_HELPERS = 256  # partitions: processes that can share the work


class ClustersStage(CurationStage):
    """Cluster the embeddings of similar content, then the centroids, level by level."""

    name = "clusters"
    number = 66
    keys: tuple[str, ...] = (
        *("balance.levels", "balance.iterations", "balance.resampling", "balance.sample_share"),
        *("balance.split", "balance.fit_images", "balance.block_images", "retrieve.encoder"),
        *("duplicates.encoder", "seed"),
    )
    execution_keys: tuple[str, ...] = ("balance.target", "partition_images", "device", "base")
    needs = _READ
    runs_on = "gpu"

    def read_levels(self, inputs: CurationInputs) -> list[LevelPolicy]:
        """Read how each level is clustered, if any is."""
        policy = inputs.config.balance
        return level_policies(policy) if policy.target else []

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan a helper per block of images; none without a balance, or without an image left."""
        policy = inputs.config.balance
        levels = self.read_levels(inputs)
        pool = read_survivors(inputs)[1] if levels else ()
        if not len(pool):
            return []
        check_levels([level.clusters for level in levels], len(pool), f"`{self.keys[0]}`")
        helpers = min(-(-len(pool) // policy.block_images), MOST_HELPERS)
        read = [read_marker(path) for need in _READ for path in inputs.files(need, "done")]
        work = hash_json([marker.fingerprint if marker else "" for marker in read])
        return [{"helper": number, "helpers": helpers, "work": work} for number in range(helpers)]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Help until all is done; the first helper writes the clusters."""
        policy = inputs.config.balance
        levels = self.read_levels(inputs)
        settings = [[asdict(level) for level in levels], policy.iterations]
        settings += [policy.block_images, inputs.config.seed]
        work = hash_json([payload["work"], settings, meaning_stage(inputs.config), self.version])
        folder = out.folder / f"work-{work[:16]}"
        for other in set(out.folder.glob("work-*")) - {folder}:
            shutil.rmtree(other, ignore_errors=True)  # of another recipe
        is_first, done = payload["helper"] == 0, folder / "done"
        if done.exists() and not is_first:
            return {}
        _, pool = read_survivors(inputs)
        points = Points(partial(tables.read_embeddings, inputs, meaning_stage(inputs.config)), pool)
        kmeans = KMeans(
            iterations=policy.iterations,
            seed=inputs.config.seed,
            block_rows=policy.block_images,
            device=inputs.config.device,
            work=SharedWork(folder, payload["helper"], payload["helpers"]),
        )
        clustered = cluster_levels(points, levels, kmeans).levels
        write_text(done, "")
        if not is_first:
            return {}
        out.write_array("ids", pool)
        out.write_array("distances", clustered[0].distances)
        for number, level in enumerate(clustered, 1):
            out.write_array(f"centroids-{number}", level.centroids)
            out.write_array(f"labels-{number}", level.labels)
        return {"images": len(pool), "levels": [_facts(level) for level in clustered]}


class PoolClustersStage(ClustersStage):
    """Cluster the pool once, for rules that retrieve from the clusters of their seeds."""

    name = "pool-clusters"
    number = 67
    keys = (
        *("retrieve.clusters", "balance.iterations", "balance.fit_images", "balance.block_images"),
        *("retrieve.encoder", "duplicates.encoder", "seed"),
    )
    execution_keys = ("partition_images", "device", "base")

    def read_levels(self, inputs: CurationInputs) -> list[LevelPolicy]:
        """Read the number of clusters, on one level without resampling."""
        num = inputs.config.retrieve.clusters
        return [LevelPolicy(num, fit_rows=inputs.config.balance.fit_images)] if num else []


class SeedClustersStage(CurationStage):
    """Find the cluster of the pool that every seed of such a rule is in."""

    name = "seed-clusters"
    number = 68
    keys = ("retrieve.encoder", "duplicates.encoder")
    # What a payload holds of the rules decides about its partition.
    execution_keys = ("retrieve.rules", "partition_images", "device", "base")
    needs = ("ingest", "plant", *_READ, "pool-clusters")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan a seed set per partition."""
        has_clusters = bool(inputs.facts("pool-clusters"))
        rules = inputs.config.retrieve.rules if has_clusters else []
        names = dict.fromkeys(rule.seeds for rule in rules if rule.mode == "cluster")
        return [{"set": name} for name in names]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Assign the seeds of one set to their nearest centroids."""
        seeds, _ = read_survivors(inputs, inputs.config.retrieve.rules)
        seeds = seeds[read_seed_set(inputs, payload["set"], seeds)]
        rows = tables.read_embeddings(inputs, meaning_stage(inputs.config), seeds)
        clusters = np.empty(0, np.int64)
        if len(rows):
            centroids = np.load(inputs.file("pool-clusters", "centroids-1.npy"))
            clusters, _ = assign_rows(rows, centroids, device=inputs.config.device)
        out.write_array("clusters", clusters)
        return {"set": payload["set"], "seeds": len(seeds)}


def level_policies(policy: BalanceConfig) -> list[LevelPolicy]:
    """Return how each level of a balance is clustered."""
    return [
        LevelPolicy(
            num,
            policy.resampling[min(at, len(policy.resampling) - 1)],
            policy.sample_share,
            policy.split[at] if at < len(policy.split) else 1,
            policy.fit_images,
        )
        for at, num in enumerate(policy.levels)
    ]


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
    for stage in ("clusters", "pool-clusters"):
        for folder in inputs.folder(stage).glob("work-*"):
            shutil.rmtree(folder, ignore_errors=True)
