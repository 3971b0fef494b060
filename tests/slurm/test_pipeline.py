"""A pipeline as arrays and gates on a real SLURM: same bytes, and what becomes of failures."""

import hashlib
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest
import toys
from waiting import state_of, wait_for, wait_for_end

from dinoforge.errors import UsageError
from dinoforge.slurm.cluster.commands import SlurmUnavailableError, queue
from dinoforge.slurm.cluster.executor import send
from dinoforge.slurm.control import cancel_run, retry_run
from dinoforge.slurm.driver import advance
from dinoforge.slurm.status import read_status
from dinoforge.slurm.store.events import read_attempts
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.stages import make_executor, run_pipeline

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(480)]


def results(folder):
    """Every file of the stages; markers without what may differ."""
    result = {}
    for path in sorted((folder / "toy").rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".done":
            marker = json.loads(path.read_text())
            marker.pop("measured")
            result[name] = marker
        elif path.is_file():
            result[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


def in_process(folder, **keys):
    run_pipeline(
        toys.PIPELINE, folder, toys.ToyConfig(out=str(folder), **keys), make_executor("in-process")
    )
    return results(folder)


def outcomes(run, partition, stage="square"):
    return [a.outcome for a in read_attempts(SlurmFolder(run).attempt(stage, partition))]


def arrays(run):
    jobs = SlurmFolder(run).submissions.read()
    return [job for job in jobs if job.kind == "array" and job.outcome == "submitted"]


def finished(run, tmp_path, **keys):
    state = wait_for_end(run)
    assert (state.state, state.why) == ("finished", [])
    assert results(run) == in_process(tmp_path / "here", **keys)


def test_a_pipeline_goes_through_arrays_and_gates_to_the_same_bytes(
    submit, run, tmp_path, monkeypatch
):
    monkeypatch.setattr("dinoforge.slurm.jobs.max_array_size", lambda: 3)
    submit(numbers=16, per_partition=2)
    finished(run, tmp_path, numbers=16, per_partition=2)
    assert json.loads((run / "run.json").read_text())["exit_code"] == 0
    # Arrays above the largest size restart at element 0.
    plans = [SlurmFolder(run).read_plan(j.name) for j in arrays(run) if j.stage == "square"]
    assert [(plan.partitions[0], plan.elements) for plan in plans] == [(0, 3), (3, 3), (6, 2)]
    jobs = SlurmFolder(run).submissions.read()
    assert Counter(job.kind for job in jobs) == {"array": 4, "gate": 2}
    # The same command again: nothing is left to do.
    assert submit(numbers=16, per_partition=2).state == "finished"
    assert len(SlurmFolder(run).submissions.read()) == len(jobs)


def test_a_stage_that_runs_on_gpus_gets_gpu_elements_and_the_other_none(
    own_bed, submit, run, tmp_path
):
    # `auto` is the CPU where the GPUs are no real ones.
    extra = "gpu: {partition: gpu, gpus_per_node: 1, memory_gb: 2}\n"
    submit(numbers=5, device="auto", extra=extra)
    finished(run, tmp_path, numbers=5, device="auto")
    plans = [SlurmFolder(run).read_plan(job.name) for job in arrays(run)]
    assert [(plan.stage, plan.gpus) for plan in plans] == [("square", 0), ("keep", 1)]
    assert (run / "gpus-of-keep").read_text() in {"0", "1"}


def test_a_full_queue_is_filled_again_by_the_gate_and_the_last_element_walks_on(
    submit, run, tmp_path
):
    # 9 partitions, 2 an element, at most 5 in the queue: the gate's place is taken, then by a gate
    # that submits itself, then one element is left, which does the next stage too.
    extra = "max_queued: 5\nstages: {square: {partitions_per_element: 2}}\n"
    submit(numbers=18, per_partition=2, extra=extra)
    finished(run, tmp_path, numbers=18, per_partition=2)
    assert [(job.stage, job.elements) for job in arrays(run)] == [("square", 4), ("square", 1)]
    plans = [SlurmFolder(run).read_plan(job.name) for job in arrays(run)]
    assert sorted(i for plan in plans for i in plan.partitions) == list(range(9))


def test_killed_and_out_of_memory_are_submitted_again_and_siblings_stay(submit, run, tmp_path):
    # 600 MiB do not fit 500 MB; they fit 750.
    submit({1: "die-once", 2: "memory 600"})
    finished(run, tmp_path)
    assert outcomes(run, 0) == ["done"]
    assert outcomes(run, 1) == ["killed", "done"]
    assert outcomes(run, 2) == ["memory", "done"]
    attempts = read_attempts(SlurmFolder(run).attempt("square", 2))
    assert [attempt.memory_gb for attempt in attempts] == [0.5, 0.75]


def test_no_job_runs_twice_whoever_calls_the_driver_and_whatever_it_forgot(submit, run, tmp_path):
    submit({0: "hang"}, numbers=5)
    wait_for(lambda: list(run.glob("began-0-*")), what="the start of partition 0")
    (array,) = arrays(run)
    with pytest.raises(UsageError, match="jobs of this run are in the queue"):
        submit({0: "hang"}, change="update", numbers=5, threshold=5)
    # A driver that was killed between sbatch and its line with the id ...
    folder = SlurmFolder(run)
    lines = folder.submissions.path.read_text().splitlines()
    kept = [line for line in lines if not ('"submitted"' in line and "square-0" in line)]
    assert len(kept) == len(lines) - 1
    folder.submissions.path.write_text("\n".join(kept) + "\n")
    # ... and three that come at once.
    threads = [threading.Thread(target=advance, args=(run,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.job for job in arrays(run)] == [array.job]
    # And if all of this failed: the double of a job does nothing.
    script = folder.scripts / f"{array.name}.sh"
    double = subprocess.run(
        ["sbatch", "--parsable", script], capture_output=True, text=True
    ).stdout.strip()
    wait_for(lambda: state_of(double) not in {"PENDING", "RUNNING", "COMPLETING"})
    assert state_of(double) == "FAILED"
    assert len(list(run.glob("began-0-*"))) == 1
    (run / "bad-0").unlink()
    finished(run, tmp_path, numbers=5)


def test_the_same_exception_twice_stops_that_partition_alone_and_a_retry_goes_on(
    submit, run, tmp_path
):
    submit({1: "raise a bad number", 3: "raise-once once"})
    state = wait_for_end(run)
    assert state.state == "stopped"
    assert state.why == ["square 1: exception: ValueError: a bad number"]
    assert outcomes(run, 1) == ["exception", "exception"]
    assert outcomes(run, 3) == ["exception", "done"]
    reported = read_status(run)
    assert [(f.where, f.outcome) for f in reported.failures] == [("square:1", "exception")]
    assert "a bad number" in Path(reported.failures[0].log).read_text()
    (run / "bad-1").unlink()
    assert retry_run(run).state == "running"
    finished(run, tmp_path)


def test_a_burst_of_set_up_failures_ends_the_array_and_stops_the_run(submit, run):
    bad = dict.fromkeys(range(12), "import")
    submit(bad, numbers=12, per_partition=1, extra="cpu: {array_parallelism: 3}\n")
    state = wait_for_end(run)
    assert state.state == "stopped"
    assert "set-up: ModuleNotFoundError: No module named 'nowhere'" in state.why[0]
    assert len(list(run.glob("began-*"))) < 8  # the rest was not tried
    assert len(arrays(run)) == 1


def test_an_interpreter_that_nodes_lack_is_a_set_up_failure(submit, run):
    submit(numbers=10, extra="cpu: {python: /nowhere/python}\n")
    state = wait_for_end(run)
    assert state.state == "stopped"
    assert "set-up" in state.why[0]
    assert "/nowhere/python" in state.why[0]


def test_what_a_stage_shows_the_user_stops_the_run_with_those_words(submit, run):
    submit({0: "usage"}, numbers=5)
    state = wait_for_end(run)
    assert state.why == ["square 0: usage: nothing to square - numbers - give some"]
    assert outcomes(run, 0) == ["usage"]


def test_submissions_without_progress_come_to_an_end(submit, run):
    submit({0: "die"}, numbers=5, extra="max_attempts: 2\n")
    state = wait_for_end(run)
    assert state.state == "stopped"
    assert "no progress in 2 submissions" in state.why[0]


def test_cancel_leaves_no_job_and_no_half_file_and_retry_goes_on(submit, run, tmp_path):
    submit({0: "hang", 1: "hang"}, numbers=30)
    wait_for(lambda: list(run.glob("began-0-*")), what="the start of partition 0")
    half = run / "toy/10-square/.part-00000.values.npy.tmp-node-99"
    half.write_bytes(b"half")
    assert cancel_run(run) == 2  # the array and its gate
    prefix = f"df-{SlurmFolder(run).read_launch().run_id}-"
    assert queue(prefix) == []
    assert not half.exists()
    assert SlurmFolder(run).read_state().state == "cancelled"
    assert advance(run).state == "cancelled"  # a gate that was on its way does nothing
    for partition in (0, 1):
        (run / f"bad-{partition}").unlink()
    retry_run(run)
    finished(run, tmp_path, numbers=30)


def test_cancel_ends_an_element_that_walks_on_and_holds_the_lease(submit, run, tmp_path):
    submit({"keep": "hang"}, numbers=5)
    wait_for(lambda: list(run.glob("began-keep-*")), what="the start of the next stage")
    assert cancel_run(run) == 2
    assert SlurmFolder(run).read_state().state == "cancelled"
    (run / "bad-keep").unlink()
    retry_run(run)
    finished(run, tmp_path, numbers=5)


def test_where_nodes_may_not_submit_the_gate_states_what_to_type(submit, run, tmp_path):
    submit(extra="nodes_may_submit: false\n")
    state = wait_for_end(run)
    assert state.state == "waiting"
    assert state.why == ["1 partition of keep to submit"]
    assert state.do == f"dinoforge retry {run}"
    retry_run(run)
    finished(run, tmp_path)


def test_a_controller_that_freezes_while_sbatch_asks_gets_no_job_twice(
    own_bed, submit, run, tmp_path, monkeypatch
):
    pid = int((own_bed / "run/slurmctld.pid").read_text())
    waker = threading.Timer(30, os.kill, (pid, signal.SIGCONT))
    answers = []

    def send_to_a_frozen_one(script):
        if not waker.is_alive() and not answers:
            os.kill(pid, signal.SIGSTOP)
            waker.start()
        try:
            answers.append(send(script))
        except SlurmUnavailableError as error:
            answers.append(error)
            raise
        return answers[-1]

    monkeypatch.setattr("dinoforge.slurm.jobs.send", send_to_a_frozen_one)
    try:
        submit(numbers=10)
    finally:
        waker.join()
    # sbatch gave up although the job was taken; it was found by its name.
    assert isinstance(answers[0], SlurmUnavailableError)
    finished(run, tmp_path, numbers=10)
    own = {job.name for job in SlurmFolder(run).submissions.read()}
    assert len(own) == len(answers) + 2  # those of the gate

    def accounted_for():
        text = subprocess.run(
            ["sacct", "-X", "-n", "-P", "-o", "JobName%99,JobID"], capture_output=True, text=True
        ).stdout
        run_id = SlurmFolder(run).read_launch().run_id
        rows = [line.split("|") for line in text.splitlines() if f"df-{run_id}-" in line]
        ids = {(name, job.partition("_")[0]) for name, job in rows}
        return ids if {name for name, _ in ids} == own else None

    ids = wait_for(accounted_for, 30, "the accounting")  # it is seconds late
    assert len(ids) == len(own)


def test_a_node_that_goes_down_costs_nothing_but_time(own_bed, submit, run, tmp_path):
    submit({0: "hang"}, numbers=10)
    wait_for(lambda: list(run.glob("began-0-*")), what="the start of partition 0")
    (attempt,) = read_attempts(SlurmFolder(run).attempt("square", 0))
    node = f"nodename={attempt.host}"
    subprocess.run(["scontrol", "update", node, "state=down", "reason=test"], check=True)
    (run / "bad-0").unlink()
    finished(run, tmp_path, numbers=10)
    (attempt,) = read_attempts(SlurmFolder(run).attempt("square", 0))
    assert attempt.outcome == "done"


def test_a_preempted_element_comes_back_by_itself_and_does_what_is_left(
    own_bed, submit, run, tmp_path
):
    extra = "cpu: {partition: preempt, partitions_per_element: 2}\n"
    submit({1: "hang"}, numbers=10, extra=extra)
    wait_for(lambda: list(run.glob("began-1-*")), what="the start of partition 1")
    # Takes every CPU of the cluster, so somebody has to give way.
    words = ["sbatch", "-p", "high", "-N4", "-n16", "--mem=100", "-t", "1", "-o", "/dev/null"]
    high = subprocess.run(
        [*words, "--parsable", "--wrap", "true"], capture_output=True, text=True, check=True
    ).stdout.strip()
    wait_for(lambda: state_of(high) in {"RUNNING", "COMPLETED"}, 120, "the preemption")
    (run / "bad-1").unlink()
    finished(run, tmp_path, numbers=10)
    starts = [read_attempts(SlurmFolder(run).attempt("square", n))[0].starts for n in (0, 1)]
    assert starts == [1, 2]


def test_a_partition_that_runs_out_of_time_gets_twice_as_much(submit, run, tmp_path):
    submit({0: "hang"}, numbers=10, extra="cpu: {minutes: 1}\n")
    wait_for(lambda: outcomes(run, 0)[:1] == ["time"], 300, "the time limit")
    (run / "bad-0").unlink()
    finished(run, tmp_path, numbers=10)
    attempts = read_attempts(SlurmFolder(run).attempt("square", 0))
    assert [attempt.outcome for attempt in attempts] == ["time", "done"]
    assert [attempt.minutes for attempt in attempts] == [1, 2]


def test_what_a_person_cancelled_stays_so_until_a_person_goes_on(submit, run, tmp_path):
    submit({0: "hang"}, numbers=5)
    wait_for(lambda: list(run.glob("began-0-*")), what="the start of partition 0")
    subprocess.run(["scancel", arrays(run)[0].job], check=True)
    state = wait_for_end(run)
    assert state.state == "stopped"
    assert state.why[0].startswith("square 0: cancelled: cancelled")
    (run / "bad-0").unlink()
    retry_run(run)
    finished(run, tmp_path, numbers=5)
