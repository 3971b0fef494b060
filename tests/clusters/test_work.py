"""Shared work: the same result for any number of processes, also killed ones."""

import multiprocessing
import random
import signal
import time

import numpy as np
import pytest

from dinoforge.clusters.hierarchy import cluster_levels
from dinoforge.clusters.lloyd import KMeans, Points
from dinoforge.clusters.work import OwnWork, SharedWork

SPAWN = multiprocessing.get_context("forkserver")


def points():
    rows = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    rows[:300] *= 0.1
    return Points(rows.__getitem__, np.arange(len(rows)))


def cluster(work):
    kmeans = KMeans(iterations=12, seed=4, block_rows=100, work=work)
    return cluster_levels(points(), [40, 8], kmeans, resampling=[1, 2])


def run(folder, place, places, pause):
    time.sleep(pause)
    cluster(SharedWork(folder, place, places))


@pytest.fixture(scope="module")
def alone():
    return cluster(OwnWork())


def assert_same(one, other):
    for level, again in zip(one.levels, other.levels, strict=True):
        for name in ("centroids", "labels", "distances", "num_reseeded", "objective"):
            np.testing.assert_array_equal(getattr(level, name), getattr(again, name))


@pytest.mark.parametrize("num", [1, 2, 4])
def test_any_number_of_processes_finds_the_same_clusters(tmp_path, alone, num):
    others = [SPAWN.Process(target=run, args=(tmp_path, place, num, 0)) for place in range(1, num)]
    for process in others:
        process.start()
    assert_same(cluster(SharedWork(tmp_path, 0, num)), alone)
    for process in others:
        process.join(60)
        assert process.exitcode == 0


def test_twenty_kills_change_nothing(tmp_path, alone):
    rng = random.Random(1)
    for place in range(20):
        process = SPAWN.Process(target=run, args=(tmp_path, place % 3, 3, 0))
        process.start()
        process.join(rng.uniform(0.02, 0.2))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
    assert place, "the first process was not killed"
    assert_same(cluster(SharedWork(tmp_path)), alone)
    assert not list(tmp_path.glob("*.?????.npz")), "blocks are left"
