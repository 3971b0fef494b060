"""The command in a process of its own."""

import os
import subprocess
import sys

import pytest


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
