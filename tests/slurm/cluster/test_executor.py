"""The batch scripts of arrays, gates and ranks."""

import re
from pathlib import Path

import pytest

from dinoforge.slurm.cluster.commands import one_line
from dinoforge.slurm.cluster.executor import JobRefusedError, sbatch_text
from dinoforge.slurm.jobs import Jobs
from dinoforge.slurm.profile import load_profile
from dinoforge.slurm.store.layout import Launch, SlurmFolder


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "profile.yaml").write_text("""\
default:
  partition: cpu
  setup: [module load python, "export X='1 2'"]
  sbatch: {reservation: night, exclusive: true, nice: null}
stages: {train: {nodes: 2, tasks_per_node: 8, gpus_per_node: 8, python: podman exec box python3}}
signal_before_s: 300
""")
    profile = load_profile(str(tmp_path / "profile.yaml"))
    launch = Launch(
        run_id="run-1", command="train", pipeline="", device="cuda", folder="/home/me",
        python_path=["/plug ins"], python="/opt/py thon/python", snapshot="/snap",
    )  # fmt: skip
    return Jobs(SlurmFolder(tmp_path / "run"), launch, profile)


def options(text):
    result = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE)
    return dict(result)


def test_an_array_is_written_with_everything_that_keeps_it_alive(jobs):
    job = jobs.profile.job("embed", "cpu")
    text = sbatch_text(jobs.array("df-run-1-embed-0-abcd", job, 12))
    given = options(text)
    assert given["array"] == "0-11%12"
    assert given["job-name"] == "df-run-1-embed-0-abcd"
    assert given["chdir"] == "/home/me"
    assert given["output"].endswith("/run/slurm/log/df-run-1-embed-0-abcd_%a.out")
    assert (given["open-mode"], given["requeue"], given["mem"]) == ("append", "", "4000M")
    assert (given["reservation"], given["exclusive"]) == ("night", "")
    assert "nice" not in given
    assert "wckey" not in given
    lines = text.splitlines()
    assert lines.index("module load python") < lines.index("export PYTHONPATH='/snap:/plug ins'")
    assert "export X='1 2'" in lines
    assert lines[-1].startswith(
        "env --ignore-signal=USR2 '/opt/py thon/python' -P -u -m dinoforge.slurm.node.worker "
    )


def test_a_gate_waits_for_all_arrays_however_they_end(jobs):
    given = options(sbatch_text(jobs.gate("df-gate", ["12", "13"])))
    assert given["dependency"] == "afterany:12:13"
    assert given["kill-on-invalid-dep"] == "yes"


def test_ranks_run_under_srun_one_log_per_rank_and_end_together(jobs):
    job = jobs.profile.job("train", "gpu")
    text = sbatch_text(jobs.ranks("df-train", job))
    given = options(text)
    assert (given["nodes"], given["ntasks-per-node"], given["gpus-per-node"]) == ("2", "8", "8")
    assert given["signal"] == "USR2@300"
    line = text.rstrip().splitlines()[-1]
    assert line.startswith("srun ")
    assert "--kill-on-bad-exit=1" in line
    assert "df-train_rank%t.out" in line
    assert "env --block-signal=USR1,USR2,TERM podman exec box python3 -P -u -m " in line
    assert " dinoforge.slurm.node.worker " in line


@pytest.mark.parametrize(
    ("text", "is_queue_full"),
    [
        ("sbatch: error: Invalid account\nsbatch: error: Batch job submission failed", False),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\n", True),
    ],
)
def test_a_refused_job_is_one_line_for_the_user(text, is_queue_full):
    error = JobRefusedError(one_line(text), Path("job.sh"))
    assert str(error).startswith("SLURM refused a job: ")
    assert str(error).endswith("job.sh - fix the profile, then rerun the command")
    assert "\n" not in str(error)
    assert error.is_queue_full is is_queue_full
