"""`--on local:N` by the command: ranks that stop, are killed or hang; nobody is left behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dinoforge.steps import step_name
from dinoforge.training.distributed.checkpoint import read_whole

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))
import kill

TINY = Path(__file__).parents[1] / "tiny.yaml"
STEPS = 100

pytestmark = pytest.mark.timeout(400)


class Training:
    """A training on two ranks in a folder of its own."""

    def __init__(self, out, pictures, *changes):
        self.out = out
        self.command = [sys.executable, "-m", "dinoforge", "train", str(TINY), "--on", "local:2"]
        self.command += [f"out={out}", f"data.paths=['{pictures}']", f"steps={STEPS}"]
        self.command += ["checkpoint.every=10", *changes]

    def start(self):
        return subprocess.Popen(
            self.command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def until_step(self, process, step, *, saved=False):
        """Wait for the metrics of a step, and for a checkpoint if it is wanted."""
        metrics = self.out / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while (
            not metrics.exists()
            or metrics.read_text().count("\n") < step
            or (saved and not any(self.out.glob("checkpoints/step-*/manifest.json")))
        ):
            assert time.monotonic() < deadline, "no metrics"
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)

    def finish(self):
        process = self.start()
        out, reported = process.communicate(timeout=300)
        assert process.returncode == 0, reported
        return out, reported

    def state(self):
        return read_whole(self.out / "checkpoints" / step_name(STEPS))


def children(process):
    """Rank -> process id."""
    result = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        rank = next((word for word in words if word.startswith(b"RANK=")), None)
        if rank is not None:
            result[int(rank.removeprefix(b"RANK="))] = int(pid)
    return result


@pytest.fixture(scope="module")
def calm(tmp_path_factory, pictures):
    """An undisturbed run on two ranks."""
    training = Training(tmp_path_factory.mktemp("calm") / "run", pictures)
    out, _ = training.finish()
    assert f"{STEPS} steps on 10 images" in out
    return training


def assert_same(training, calm):
    result, wanted = training.state(), calm.state()
    assert result.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, result[name]), name
    lines = (training.out / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_is_named_and_the_same_command_goes_on(calm, pictures, tmp_path, lost):
    training = Training(tmp_path / "run", pictures)
    process = training.start()
    training.until_step(process, 12, saved=True)
    ranks = children(process)
    os.kill(ranks[lost], signal.SIGKILL)
    _, reported = process.communicate(timeout=100)
    assert process.returncode == 76
    assert f"rank {lost} was lost: SIGKILL" in reported
    assert reported.count("was lost") == 1
    assert "Traceback" not in reported
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    _, reported = training.finish()
    assert "resuming from step" in reported
    assert_same(training, calm)


def test_three_kills_of_ranks_or_launcher_change_nothing(pictures, tmp_path):
    words = ["train", str(TINY), f"data.paths=['{pictures}']", "steps=40", "checkpoint.every=5"]
    result = kill.measure([*words, "--on", "local:2"], tmp_path, kills=3, draw=random.Random(2))
    assert result["kills"] == 3
    assert result["different"] == []
    # A checkpoint is written while five more steps are done, and waited for by the next.
    assert all(steps is None or steps <= 10 for steps in result["lost_steps"])


def test_a_signal_stops_all_ranks_at_one_step_with_75(calm, pictures, tmp_path):
    training = Training(tmp_path / "run", pictures)
    process = training.start()
    training.until_step(process, 3)
    process.send_signal(signal.SIGTERM)
    _, reported = process.communicate(timeout=100)
    assert process.returncode == 75, reported
    assert reported.count("start the same command again") == 1
    training.finish()
    assert_same(training, calm)


def test_ranks_end_with_a_killed_launcher(pictures, tmp_path):
    training = Training(tmp_path / "run", pictures)
    process = training.start()
    training.until_step(process, 3)
    ranks = children(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in ranks.values()):
        assert time.monotonic() < deadline, "a rank lives on"
        time.sleep(0.05)


def test_a_rank_that_hangs_is_named_within_the_timeout(pictures, tmp_path):
    training = Training(tmp_path / "run", pictures, "parallel.timeout_s=5")
    process = training.start()
    training.until_step(process, 3)
    os.kill(children(process)[1], signal.SIGSTOP)
    _, reported = process.communicate(timeout=100)
    assert process.returncode == 76
    assert reported.count("rank 1 of 2 was lost") == 1
    assert "Traceback" not in reported


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["batch_size=3"], "`batch_size` 3 is not a multiple of 2 ranks"),
        (["stepz=3"], "did you mean `steps`"),
    ],
)
def test_a_mistake_is_reported_once_in_one_line(pictures, tmp_path, words, reported):
    training = Training(tmp_path / "run", pictures, *words)
    process = training.start()
    _, result = process.communicate(timeout=100)
    assert process.returncode == 2
    assert reported in result
    assert len(result.splitlines()) == 1
