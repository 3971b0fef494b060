"""Shared work: the same result for any number of processes, also killed ones."""

import contextlib
import multiprocessing
import random
import signal
import time

import numpy as np
import pytest

from dinoforge.clusters import lloyd
from dinoforge.clusters.blocks import Points
from dinoforge.clusters.hierarchy import LevelPolicy, cluster_levels
from dinoforge.clusters.lloyd import KMeans
from dinoforge.clusters.work import OwnWork, SharedWork

SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["pytest", "dinoforge.clusters.hierarchy"])


def cluster(work, *, iterations=12, read_s=0.0):
    """Cluster 1,800 rows in six blocks, each of which takes ``read_s`` to read."""
    lloyd._RANGE_BYTES = 512  # several ranges of clusters are merged, by one process each
    rows = np.random.default_rng(0).normal(size=(1800, 8)).astype(np.float32)
    rows[:900] *= 0.1

    def read(positions):
        time.sleep(read_s)
        return rows[positions]

    kmeans = KMeans(iterations=iterations, seed=4, block_rows=300, work=work)
    points = Points(read, np.arange(len(rows)))
    return cluster_levels(points, [LevelPolicy(40, 4), LevelPolicy(8, 2)], kmeans)


def run(folder, place, places, **how):
    cluster(SharedWork(folder, place, places), **how)


def num_steps(folder):
    return len(list(folder.glob("*.range-*.npz")))


@pytest.fixture(scope="module")
def alone():
    return cluster(OwnWork())


def assert_same(one, other):
    for level, again in zip(one.levels, other.levels, strict=True):
        for name in ("centroids", "labels", "distances", "num_reseeded", "objective"):
            np.testing.assert_array_equal(getattr(level, name), getattr(again, name))


@pytest.mark.parametrize("num", [1, 2, 4])
def test_any_number_of_processes_finds_the_same_clusters(tmp_path, alone, num):
    others = [SPAWN.Process(target=run, args=(tmp_path, place, num)) for place in range(1, num)]
    for process in others:
        process.start()
    assert_same(cluster(SharedWork(tmp_path, 0, num)), alone)
    for process in others:
        process.join(60)
        assert process.exitcode == 0


def test_twenty_kills_change_nothing(tmp_path, alone):
    rng, slow = random.Random(1), {"read_s": 0.005}  # six blocks: a step takes 30 ms
    for place in range(20):
        process = SPAWN.Process(target=run, args=(tmp_path, place % 3, 3), kwargs=slow)
        process.start()
        # Steps end in a file, so it has done some work and is somewhere in the next.
        wanted = num_steps(tmp_path) + 1
        while process.is_alive() and num_steps(tmp_path) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "all was done before the last kill"
    assert_same(cluster(SharedWork(tmp_path)), alone)
    assert not list(tmp_path.glob("level1*-0??.block-*")), "blocks of an iteration are left"


def test_first_centroids_and_parts_of_clusters_are_shared_too(tmp_path):
    rows = np.random.default_rng(0).normal(size=(2500, 4)).astype(np.float32)
    points = Points(rows.__getitem__, np.arange(len(rows)))

    def levels(work):
        kmeans = KMeans(iterations=2, seed=3, block_rows=600, work=work)
        return cluster_levels(points, [LevelPolicy(300), LevelPolicy(60, split=6)], kmeans)

    alone = levels(OwnWork())
    assert_same(levels(SharedWork(tmp_path)), alone)
    shared = {path.name.split(".")[0] for path in tmp_path.glob("*.block-00004.npz")}
    assert shared >= {"level1-cells-assign", "level1-start", "level1-assign"}


@pytest.mark.parametrize("split", [1, 4])
def test_empty_clusters_of_an_interrupted_run_are_those_of_an_undisturbed_one(tmp_path, split):
    rows = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32).repeat(8, axis=0)
    left = 1 << 30

    def read(positions):
        nonlocal left
        left -= 1
        if left < 0:
            raise InterruptedError
        return rows[positions]

    def levels(work):
        kmeans = KMeans(iterations=6, seed=1, block_rows=30, work=work)
        policies = [LevelPolicy(12, 1, split=split), LevelPolicy(3)]
        return cluster_levels(Points(read, np.arange(40)), policies, kmeans)

    alone = levels(OwnWork())
    assert (alone.levels[0].num_empty, len(alone.levels[0].centroids)) == (7, 5)
    resumed, attempts = None, 0
    while resumed is None:
        left, attempts = 2, attempts + 1
        with contextlib.suppress(InterruptedError):
            resumed = levels(SharedWork(tmp_path))
    assert attempts > 3
    assert_same(resumed, alone)
