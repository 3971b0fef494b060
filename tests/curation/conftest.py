"""The pool of tests/behaviour: a curation is tested on what a user would give it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "behaviour"))
import pool as pools


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    return pools.make_pool(tmp_path_factory.mktemp("pool") / "images")


@pytest.fixture(scope="session")
def calm(pool, tmp_path_factory):
    """Folder of a finished run; tests only read it."""
    out = tmp_path_factory.mktemp("calm") / "run"
    pools.curated(pools.recipe(pool.sources, out))
    return out
