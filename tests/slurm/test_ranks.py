"""Training and evaluation as one job of ranks, on a real SLURM."""

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import state_of, wait_for, wait_for_end

from dinoforge.cli.main import main
from slurm.files.attempts import read_attempts
from slurm.files.layout import SlurmFolder
from slurm.files.ledger import Ledger
from training.checkpoint import read_whole

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(480)]

SMALL = (
    *("batch_size=4", "log_every=1", "threads=1", "device=cpu", "checkpoint.every=5"),
    *("model.width=32", "model.depth=1", "model.heads=2", "model.patch_size=8"),
    *("crops.global_size=32", "crops.local_size=16", "crops.num_local=2"),
    *(
        f"{h}_head.{k}"
        for h in ("dino", "ibot")
        for k in ("prototypes=32", "bottleneck=8", "hidden=16")
    ),
)

PROFILE = """\
default: {partition: cpu, memory_gb: 0.5, minutes: 5}
stages: {train: {memory_gb: 2, minutes: 15}, evaluate: {memory_gb: 2}}
probe: false
signal_before_s: 30
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        rows, columns = np.mgrid[0:40, 0:40]
        waves = [np.sin(rows * 0.07 * (number + band) + columns / 5) for band in (1, 2, 3)]
        pixels = (127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def train(bed, run, photos, tmp_path, capsys):
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE)

    def start(*words):
        keys = [*SMALL, f"data.paths=[{photos}]", f"out={run}", *words]
        code = main(["train", "model.architecture=custom", *keys, "--on", f"slurm:{profile}", "-q"])
        assert code == 0, capsys.readouterr().err

    return start


def weights(folder):
    """Every tensor of the newest checkpoint, as bytes."""
    tensors = read_whole(max((folder / "checkpoints").glob("step-*")))
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_a_training_that_is_preempted_goes_on_to_the_weights_of_an_undisturbed_one(
    train, run, photos, tmp_path
):
    train("steps=40")
    wait_for(lambda: list((run / "checkpoints").glob("step-*")), 120, "the first checkpoint")
    job, gate = Ledger(SlurmFolder(run).ledger).submissions()
    assert (job.kind, gate.kind) == ("ranks", "gate")
    # What a preemption sends first, and what the end of the time sends.
    subprocess.run(["scancel", "--signal=USR2", job.job], check=True)
    wait_for(lambda: state_of(job.job) == "PENDING", 120, "the requeue")
    assert wait_for_end(run).state == "finished"
    (attempt,) = read_attempts(SlurmFolder(run).attempt("train", 0))
    assert attempt.starts == 2
    assert attempt.steps[0] == 0 < attempt.steps[1]
    calm = tmp_path / "calm"
    words = [*SMALL, f"data.paths=[{photos}]", f"out={calm}", "steps=40", "-q"]
    assert main(["train", "model.architecture=custom", *words]) == 0
    assert weights(run) == weights(calm)
    assert weights(run)


def test_a_training_that_cannot_run_stops_with_its_own_words(train, run, photos):
    train("steps=20", "data.paths=[/nowhere]")
    state = wait_for_end(run)
    assert state.state == "stopped"
    assert state.why[0].startswith("rank 0 ended with 2: see ")
    log = SlurmFolder(run).logs / state.why[0].rpartition("/")[2]
    assert "/nowhere" in log.read_text()
    (attempt,) = read_attempts(SlurmFolder(run).attempt("train", 0))
    assert attempt.outcome == "usage"


def test_a_training_killed_together_with_its_rank_is_started_again_from_its_checkpoint(
    own_bed, train, run
):
    train("steps=100")
    lines = run / "slurm/attempts/train/part-00000.jsonl"
    wait_for(lambda: list((run / "checkpoints").glob("step-*")), 120, "the first checkpoint")
    rank = json.loads(lines.read_text().splitlines()[0])["pid"]
    children = Path(f"/proc/{rank}/task/{rank}/children").read_text().split()
    for pid in (rank, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    assert wait_for_end(run).state == "finished"
    first, second = read_attempts(SlurmFolder(run).attempt("train", 0))
    assert (first.outcome, second.outcome) == ("killed", "done")
    assert second.steps[0] > 0
