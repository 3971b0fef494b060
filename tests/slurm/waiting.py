"""Poll with a deadline; nothing here sleeps for a fixed time."""

import subprocess
import time

from dinoforge.slurm.store.layout import SlurmFolder


def wait_for(condition, seconds=120, what="it"):
    """Poll until ``condition`` gives something true; returns that."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.1)
    return result


def wait_for_end(run, seconds=180):
    """Wait until no gate will act any more; returns the state."""

    def ended():
        state = SlurmFolder(run).read_state()
        return state if state and state.state != "running" else None

    try:
        return wait_for(ended, seconds, "the end of the run")
    except AssertionError:
        for log in sorted(SlurmFolder(run).logs.glob("*")):
            print(f"--- {log.name}\n{log.read_text()}")  # noqa: T201 - shown by pytest
        raise


def state_of(job):
    """State of a job, as the controller reports it."""
    done = subprocess.run(
        ["scontrol", "-o", "show", "job", job], capture_output=True, text=True, check=True
    )
    return next(w.partition("=")[2] for w in done.stdout.split() if w.startswith("JobState="))
