"""Training and evaluation as one job of ranks, on a real SLURM."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trainings import PROFILE, TRAINING
from waiting import state_of, wait_for, wait_for_end

from dinoforge.cli.main import main
from dinoforge.slurm.store.events import read_attempts
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.training.distributed.checkpoint import read_whole

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(480)]

SMALL = (*TRAINING, "log_every=1", "checkpoint.every=5")

PROFILE_OF_RANKS = """\
default: {partition: cpu, memory_gb: 0.5, minutes: 5}
stages:
  train: {partition: preempt, nodes: 2, tasks_per_node: 2, memory_gb: 3, minutes: 15}
probe: false
signal_before_s: 30
"""


@pytest.fixture
def train(bed, run, photos, tmp_path, capsys):
    path = tmp_path / "profile.yaml"

    def start(*words, profile=PROFILE):
        path.write_text(profile)
        keys = [*SMALL, f"data.paths=[{photos}]", f"out={run}", *words]
        code = main(["train", "model.architecture=custom", *keys, "--on", f"slurm:{path}", "-q"])
        assert code == 0, capsys.readouterr().err

    return start


def weights(folder):
    """Every tensor of the newest checkpoint, as bytes."""
    tensors = read_whole(max((folder / "checkpoints").glob("step-*")))
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def attempts_of(run, rank=0):
    return read_attempts(SlurmFolder(run).attempt("train", rank))


class Weekend:
    """A training on 2 nodes x 2 ranks, and what may happen to it."""

    def __init__(self, run, bed):
        self.run, self.bed = run, bed

    @property
    def job(self):
        sent = SlurmFolder(self.run).submissions.read()
        return [entry.job for entry in sent if entry.kind == "ranks"][-1]

    def starts(self):
        return sum(attempt.starts for attempt in attempts_of(self.run))

    def wait_until_it_trains(self):
        """Wait until this start has saved something that it did itself."""
        saved = newest(self.run)
        wait_for(lambda: newest(self.run) > saved, 150, "a new checkpoint")

    def wait_until_it_starts_again(self, starts):
        wait_for(lambda: self.starts() > starts, 120, "the next start")
        self.wait_until_it_trains()

    def preempt(self):
        starts = self.starts()
        # Takes every CPU of the cluster, so somebody has to give way.
        words = ["sbatch", "-p", "high", "-N4", "-n16", "--mem=100", "-t", "1", "-o", "/dev/null"]
        subprocess.run([*words, "--wrap", "true"], capture_output=True, check=True)
        self.wait_until_it_starts_again(starts)

    def lose_a_node(self, rank):
        starts = self.starts()
        node = attempts_of(self.run, rank)[-1].host
        update(f"nodename={node}", "state=down", "reason=test")
        self.wait_until_it_starts_again(starts)

    def come_to_the_end_of_its_time(self):
        starts = self.starts()
        update(f"jobid={self.job}", "timelimit=1")
        wait_for(lambda: state_of(self.job) == "PENDING", 120, "the requeue")
        update(f"jobid={self.job}", "timelimit=15")
        self.wait_until_it_starts_again(starts)

    def send_user_signals_at_preemption(self):
        conf = self.bed / "etc/slurm.conf"
        conf.write_text(f"{conf.read_text()}SlurmctldParameters=preempt_send_user_signal\n")
        subprocess.run(["scontrol", "reconfigure"], check=True)


def update(*words):
    subprocess.run(["scontrol", "update", *words], check=True)


def newest(run):
    """Step of the newest checkpoint that is whole."""
    result = (run / "checkpoints").glob("step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in result), default=0)


@pytest.mark.timeout(1200)
def test_sharded_ranks_on_two_nodes_survive_a_weekend_and_end_with_the_weights_of_a_calm_run(
    own_bed, train, run, photos, tmp_path
):
    words = ["steps=300", "parallel.mode=fsdp"]
    calm = tmp_path / "calm"
    keys = ["model.architecture=custom", *SMALL, f"data.paths=[{photos}]", f"out={calm}", *words]
    command = [sys.executable, "-m", "dinoforge", "train", *keys, "--on", "local:4", "-q"]
    undisturbed = subprocess.Popen(command)
    try:
        weekend = Weekend(run, own_bed)
        train(*words, profile=PROFILE_OF_RANKS)
        weekend.wait_until_it_trains()
        weekend.preempt()
        weekend.lose_a_node(rank=3)
        weekend.come_to_the_end_of_its_time()
        weekend.send_user_signals_at_preemption()
        weekend.preempt()
        assert wait_for_end(run, 400).state == "finished"
        assert undisturbed.wait(400) == 0
    finally:
        undisturbed.kill()
    assert weights(run) == weights(calm)
    # One job all the time, which SLURM or the training itself put back into the queue.
    (attempt,) = attempts_of(run)
    assert attempt.starts == 5
    assert attempt.steps == sorted(set(attempt.steps))
    assert {"TERM", "USR2"} <= set(attempt.signals)


METHODS = {
    "dino": [
        *("method=dino", "teacher.balance=centering", "loss.ibot=0", "loss.koleo=0"),
        *("model.layer_scale=0", "optimizer.freeze_by=gradient", "crops.blur_filter=pillow"),
    ],
    "paws": [
        *("method=paws", "model.drop_path=0", "model.layer_scale=0", "support.classes=2"),
        *("support.images=2", "paws.hidden=16", "paws.width=8", "optimizer.name=lars"),
        *("optimizer.momentum_of=steps", "optimizer.lr=0.05", "optimizer.lr_rule=none"),
        "optimizer.clip=0",
    ],
}


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_lose_a_node_and_end_with_the_weights_of_a_calm_run(
    method, own_bed, train, run, photos, tmp_path
):
    words, calm = ["steps=200", *METHODS[method]], tmp_path / "calm"
    if method == "paws":
        words.append(f"support.paths=[{photos}]")
    keys = ["model.architecture=custom", *SMALL, f"data.paths=[{photos}]", f"out={calm}", *words]
    weekend = Weekend(run, own_bed)
    train(*words, profile=PROFILE_OF_RANKS.replace("tasks_per_node: 2", "tasks_per_node: 1"))
    weekend.wait_until_it_trains()
    weekend.lose_a_node(rank=1)
    assert main(["train", *keys, "--on", "local:2", "-q"]) == 0
    assert wait_for_end(run, 400).state == "finished"
    assert weights(run) == weights(calm)
    assert weekend.starts() == 2


def test_a_training_that_is_preempted_goes_on_to_the_weights_of_an_undisturbed_one(
    train, run, photos, tmp_path
):
    train("steps=40")
    wait_for(lambda: list((run / "checkpoints").glob("step-*")), 120, "the first checkpoint")
    job, gate = SlurmFolder(run).submissions.read()
    assert (job.kind, gate.kind) == ("ranks", "gate")
    # What a preemption sends first, and what the end of the time sends.
    subprocess.run(["scancel", "--signal=USR2", job.job], check=True)
    wait_for(lambda: state_of(job.job) == "PENDING", 120, "the requeue")
    assert wait_for_end(run).state == "finished"
    (attempt,) = attempts_of(run)
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
    assert state.why[0].startswith("train: usage: rank 0: ")
    assert "/nowhere" in state.why[0]
    (attempt,) = attempts_of(run)
    assert attempt.outcome == "usage"


def test_a_training_that_fails_twice_alike_stops_with_its_own_words(train, run):
    train("steps=20", "optimizer.lr=1e38", "optimizer.clip=0")
    state = wait_for_end(run)
    assert state.state == "stopped"
    assert state.why[0].startswith("train: exception: rank 0: ")
    assert "not finite before the update of step" in state.why[0]
    assert [attempt.outcome for attempt in attempts_of(run)] == ["exception", "exception"]


def test_a_rank_that_is_killed_ends_the_others_and_all_start_again_from_the_checkpoint(
    own_bed, train, run
):
    two_ranks = PROFILE.replace("{memory_gb: 2,", "{tasks_per_node: 2, memory_gb: 3,")
    train("steps=400", profile=two_ranks)
    lines = run / "slurm/attempts/train/part-00001.jsonl"
    wait_for(lambda: newest(run), 120, "the first checkpoint")
    with pytest.raises(AssertionError, match="under another recipe: `steps`"):
        train("steps=401", profile=two_ranks)
    train("steps=400", profile=two_ranks)  # looks after it, and submits nothing
    assert len(SlurmFolder(run).submissions.read()) == 2
    rank = json.loads(lines.read_text().splitlines()[0])["pid"]
    children = Path(f"/proc/{rank}/task/{rank}/children").read_text().split()
    for pid in (rank, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    assert wait_for_end(run, 400).state == "finished"
    first, second = attempts_of(run)
    assert (first.outcome, second.outcome) == ("killed", "done")
    assert second.steps[0] > 0
