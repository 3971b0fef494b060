"""One pool, one undisturbed run of it, and the command in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import pool as pools


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    return pools.make_pool(tmp_path_factory.mktemp("pool") / "images")


@pytest.fixture(scope="session")
def calm(pool, tmp_path_factory):
    """Folder of a finished, undisturbed run; tests only read it."""
    out = tmp_path_factory.mktemp("calm") / "run"
    pools.curated(pools.recipe(pool.sources, out))
    return out


@pytest.fixture(scope="session")
def dinoforge():
    """Run the command as a user does; returns the finished process."""

    def run(*words, cwd=None, env=None, prelude=""):
        start = "from dinoforge.cli.main import main; import sys; sys.exit(main())"
        code = f"{prelude}\n{start}"
        return subprocess.run(
            [sys.executable, "-c", code, *(str(word) for word in words)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
        )

    return run
