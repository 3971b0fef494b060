"""What SLURM's commands inherit, and how their errors read."""

import getpass
import os

import pytest

from dinoforge.slurm.cluster.commands import (
    accounted_name,
    clean_environment,
    one_line,
    parse_accounting,
    parse_details,
    parse_queue,
)
from dinoforge.slurm.cluster.limits import submit_limit


def test_jobs_inherit_only_the_place_of_the_cluster_from_the_job_that_submits_them():
    given = {
        "SLURM_CONF": "/etc/x", "SLURM_CLUSTERS": "a", "SLURM_MEM_PER_NODE": "4",
        "SBATCH_PARTITION": "x", "SLURM_CPU_BIND": "none", "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/root", "SUBMITIT_EXECUTOR": "slurm",
    }  # fmt: skip
    assert clean_environment(given) == {
        "SLURM_CONF": "/etc/x", "SLURM_CLUSTERS": "a", "HOME": "/root",
    }  # fmt: skip
    assert "SLURM_JOB_ID" not in clean_environment(os.environ | {"SLURM_JOB_ID": "1"})


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "sbatch: error: Invalid account\nsbatch: error: Batch job submission failed",
            "Invalid account; Batch job submission failed",
        ),
        ("sinfo: fatal: Could not establish a configuration source\n", "Could not establish a"),
        ("slurm_load_partitions: Unable to contact", "slurm_load_partitions: Unable to contact"),
    ],
)
def test_an_error_of_slurm_fits_in_a_line_without_its_prefixes(said, line):
    assert one_line(said).startswith(line)
    assert "error: " not in one_line(said)


US = "\x1f"
FAILED = (
    "UserId=me(1000) GroupId=me(1000) MCS_label=N/A Priority=1 Account=a QOS=normal "
    "JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=1 ExitCode=1:0 "
    "RunTime=00:00:03 TimeLimit=00:30:00 Partition=cpu ReqNodeList=(null) NodeList=n1 BatchHost=n1 "
    "Command=/d/run.sh WorkDir=/d"
)
LIE = (
    "JobState=COMPLETED Reason=None ExitCode=0:0 DerivedExitCode=0:9 TimeLimit=01:00:00 NodeList=x"
)


@pytest.mark.parametrize(
    "text",
    [
        f"JobId=12 JobName=train {FAILED} Comment=was {LIE} ArrayJobId=3 ArrayTaskId=4",
        f"JobId=12 JobName=train {FAILED} AdminComment=a SystemComment={LIE}",
        f"JobId=12 JobName=a\tb | {LIE} {FAILED} Power=",
        f"JobId=12 JobName={LIE} {FAILED}",
        f"JobId=12 JobName=a UserId=b {LIE} {FAILED}",
        f"JobId=12 JobName=a {LIE} {FAILED.replace('(1000)', '')}",
        f"JobId=12 JobName=x {FAILED} Comment=a\n{LIE}\nJobId=13 {LIE}\nJobId=12 JobName=y {LIE}\n",
        f"JobId=12 JobName=x {FAILED.replace('/d/run.sh', f'/d/{LIE}/run.sh')}",
        f"JobId=12 JobName=x {FAILED.replace('WorkDir=/d', f'WorkDir=/d {LIE}')}",
        f"Welcome! JobId=9 {LIE}\nJobId=12 JobName=x {FAILED}",
        f"JobId=12 JobName=train {FAILED.removeprefix('UserId=me(1000) GroupId=me(1000) ')} {LIE}",
    ],
)
def test_what_people_wrote_into_a_job_does_not_change_its_state(text):
    (row,) = parse_details(text)
    assert (row.job, row.state, row.reason, row.node) == ("12", "FAILED", "NonZeroExitCode", "n1")
    assert (row.exit_code, row.derived_signal, row.limit_s, row.elapsed_s) == (1, 0, 1800, 3)


def test_elements_of_an_array_and_two_jobs_are_rows_of_their_own():
    heads = ("JobId=76 ArrayJobId=71 ArrayTaskId=5", "JobId=71 ArrayJobId=71 ArrayTaskId=6-9%2")
    text = "\n".join(f"{head} JobName=x {FAILED}" for head in (*heads, "JobId=80"))
    assert [row.job for row in parse_details(text)] == ["71_5", "71_6-9%2", "80"]


BANNER = "*** job 2024 | maintenance on 2026|12|24 ***\n2024\n\nCLUSTER: c2\n"


def test_a_banner_and_odd_names_do_not_disturb_the_queue():
    lines = (
        ("71", "3", "RUNNING", "df-x", "None"),
        ("72", "N/A", "PENDING", "a | b=c ", "Resources | (x)"),
    )
    text = BANNER + "".join(US.join(line) + "\n" for line in lines)
    jobs = [(j.job, j.element, j.state, j.name, j.reason) for j in parse_queue(text)]
    assert jobs == [("71", 3, *lines[0][2:]), ("72", None, *lines[1][2:])]


def test_a_banner_and_odd_reasons_do_not_disturb_the_accounting():
    line = US.join(("71_3", "CANCELLED by 5", "0:15", "0:0", "a | b", "3", "5", "n1"))
    steps = US.join(("71_3.batch", "FAILED", "9:0", "", "", "3", "", "n1"))
    rows = parse_accounting(f"{BANNER}{line}\n{steps}\n7 jobs{US * 8}\n")
    assert list(rows) == ["71_3"]
    assert [(r.state, r.reason, r.step) for r in rows["71_3"]] == [
        ("CANCELLED", "a | b", ""), ("FAILED", "", "batch"),
    ]  # fmt: skip


def test_a_reason_of_several_lines_belongs_to_its_row():
    reason = "held by root:\nrack 3\n72 nodes are down"
    rows = [(job, "FAILED", "1:0", "0:0", reason, "3", "5", "n1") for job in ("71_3", "71_4")]
    text = "\n".join(map(US.join, rows))
    for end in ("", "\n", "\nbye\n", f"\n{BANNER}"):
        parsed = parse_accounting(f"{BANNER}{text}{end}")
        assert list(parsed) == ["71_3", "71_4"]
        for (row,) in parsed.values():
            assert (row.reason, row.node) == (" ".join(reason.split()), "n1")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Put a command of SLURM into PATH that prints a text."""

    def put(name, text):
        (tmp_path / "printed").write_text(text)
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ncat '{tmp_path}/printed'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_a_name_is_found_in_the_accounting_behind_a_banner(command):
    command("sacct", f"{BANNER}70{US}df-x-1\n71_[0-3]{US}df-x\n")
    assert accounted_name("df-x") == "71"
    assert accounted_name("df-x-1") == "70"
    assert accounted_name("df-y") is None


def test_the_limit_of_jobs_is_that_of_the_user(command):
    user = getpass.getuser()
    command("sacctmgr", f"you have 3 jobs\n5\n{user}|\n{user}|400\nroot2|7\n{user}|300\n")
    assert submit_limit() == 300
    command("sacctmgr", BANNER)
    assert submit_limit() == 0
