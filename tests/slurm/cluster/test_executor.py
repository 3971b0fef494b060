"""The batch scripts of arrays, gates and ranks."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from dinoforge.slurm.cluster.commands import one_line
from dinoforge.slurm.cluster.executor import JobRefusedError, job_id, sbatch_text
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


@pytest.mark.parametrize(
    ("answer", "job"),
    [
        ("123\n", "123"),
        ("123;c2\n", "123"),
        ("Submitted batch job 123", "123"),
        ("Submitted batch job 123 on cluster c2\n", "123"),
        ("--> Verifying job 2024 is within limits ... OK\nSubmitted batch job 123\n", "123"),
        ("Your last job 99 used 0 SU\n99\n123;c2\n", "123"),
        ("Your last job 99 used 0 SU\nSubmitted batch job 123\n", "123"),
        ("Submitted batch job 99\n123\n", None),  # 99 is a job of the site's wrapper
        ("2024\nSubmitted batch job 123\n2024\n", None),
        ("sbatch: Warning: can't run 1 processes on 2 nodes\n67109080\n", "67109080"),
        ("Submitted batch job 123\nbye, job 9\n", "123"),
        ("Submitted batch job 7\nSubmitted batch job 123\n", None),
        ("123\n123\n", "123"),
        ("123\n42\n", None),
        ("123;c2\n124;c2\n", None),
        ("job 123", None),
        ("job submitted", None),
        ("12 jobs\n1.5\n-3\n", None),
        ("", None),
    ],
)
def test_the_id_is_what_sbatch_reports_not_a_number_in_a_banner(answer, job):
    assert job_id(answer) == job


ODD = "50%j %% a#b'c\"d`e$f;g&h|i<j>k(l)m{n}[o]*?!~=,:\udce9\t\N{PILE OF POO}"


def test_paths_keep_their_characters_in_a_batch_script(jobs, tmp_path):
    folder = SlurmFolder(tmp_path / ODD)
    odd = replace(
        jobs, folder=folder, launch=replace(jobs.launch, folder=f"/{ODD}", python=f"/{ODD}/py")
    )
    job = replace(jobs.profile.job("embed", "cpu"), python=None)
    text = sbatch_text(odd.array("df-x", job, 2))
    given = {name: shlex.split(value) for name, value in options(text).items()}
    assert given["output"] == [str(folder.logs).replace("%", "%%") + "/df-x_%a.out"]
    assert given["chdir"] == [f"/{ODD}"]
    words = shlex.split(text.splitlines()[-1])
    # What env would read as NAME=VALUE is started by a shell.
    assert words[:5] == ["env", "--ignore-signal=USR2", "bash", "-c", 'exec "$0" "$@"']
    assert words[5:10] == [f"/{ODD}/py", "-P", "-u", "-m", "dinoforge.slurm.node.worker"]
    assert words[10] == str(folder.run)
    text = sbatch_text(odd.ranks("df-t", job))
    words = shlex.split(text.splitlines()[-1])
    outputs = [words[at + 1] for at, word in enumerate(words) if word == "--output"]
    assert outputs[-1] == str(folder.logs).replace("%", "%%") + "/df-t_rank%t.out"
    assert not any("50%j" in output for output in outputs)


def test_a_snapshot_is_never_below_a_colon(tmp_path):
    plain, odd = SlurmFolder(tmp_path / "run"), SlurmFolder(tmp_path / "a/exp:1/b:2/run")
    assert plain.snapshots == plain.root / "snapshot"
    assert odd.snapshots == tmp_path / "a/.dinoforge/snapshot"
