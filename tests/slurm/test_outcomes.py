"""Classes of failures, read from lines that a real SLURM (22.05) wrote."""

import pytest

from dinoforge.errors import UsageError
from dinoforge.slurm.cluster.commands import parse_accounting, parse_details
from dinoforge.slurm.outcomes import Outcome, classify, classify_exception
from dinoforge.slurm.store.events import Attempt

# sacct -D -n -P -o JobID,State,ExitCode,DerivedExitCode,Reason,ElapsedRaw,TimelimitRaw,NodeList
RECORDED = [
    ("script exits 3", "5|FAILED|3:0|0:0|None|2|5|node1", "", Outcome.NO_MARKER),
    (
        "command not found",
        "5|FAILED|127:0|0:0|None|0|5|node1",
        "slurm_script: line 19: /nowhere/python: No such file or directory",
        Outcome.SETUP,
    ),
    ("command not found, no log", "5|FAILED|127:0|0:0|None|0|5|node1", "", Outcome.SETUP),
    (
        "batch script kill -9",
        "5|FAILED|0:9|0:0|None|3|5|node1\n5.batch|CANCELLED|0:9||None|3||node1",
        "",
        Outcome.KILLED,
    ),
    (
        "task kill -9 under srun",
        "5|FAILED|9:0|0:9|None|3|5|node1\n5.0|CANCELLED|0:9||None|3||node1",
        "srun: error: node1: task 0: Killed",
        Outcome.KILLED,
    ),
    (
        "the same, the script swallowed it",
        "5|COMPLETED|0:0|0:9|None|3|5|node1\n5.0|CANCELLED|0:9||None|3||node1",
        "",
        Outcome.KILLED,
    ),
    (
        "killed child of bash, accounting off",
        "",
        "slurm_script: line 21: 27131 Killed   env --ignore-signal=USR2",
        Outcome.KILLED,
    ),
    ("segmentation fault, swallowed", "5|COMPLETED|0:0|0:11|None|3|5|node1", "", Outcome.CRASH),
    ("segmentation fault of the shell's child", "5|FAILED|139:0|0:0|None|3|5|n", "", Outcome.CRASH),
    (
        "USR2 before the handler",
        "5|FAILED|12:0|0:12|None|1|1|node1",
        "srun: error: node1: task 0: User defined signal 2",
        Outcome.INFRASTRUCTURE,
    ),
    (
        "memory, batch process",
        "5|OUT_OF_MEMORY|0:125|0:0|OutOfMemory|3|5|node1\n5.batch|OUT_OF_MEMORY|0:125||||3|n",
        "",
        Outcome.MEMORY,
    ),
    (
        "memory, in a step",
        "5|FAILED|1:0|0:125|None|3|5|node1\n5.0|OUT_OF_MEMORY|0:125||None|3||node1",
        "srun: error: node1: task 0: Out Of Memory",
        Outcome.MEMORY,
    ),
    ("memory, in a step, swallowed", "5|COMPLETED|0:0|0:125|None|3|5|node1", "", Outcome.MEMORY),
    (
        "memory by polling",
        "5|FAILED|0:9|0:0|None|3|5|node1\n5.batch|CANCELLED by 0|0:9||None|3||node1",
        "slurmstepd: error: Step 5.0 exceeded memory limit (224993280 > 209715200), being killed",
        Outcome.MEMORY,
    ),
    (
        "memory of a GPU",
        "5|FAILED|1:0|0:0|None|3|5|node1",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        Outcome.DEVICE_MEMORY,
    ),
    (
        "time limit",
        "5|TIMEOUT|0:0|0:0|None|301|5|node1\n5.batch|CANCELLED|0:15||None|301||node1",
        "slurmstepd: error: *** JOB 5 ON node1 CANCELLED DUE TO TIME LIMIT ***",
        Outcome.TIME,
    ),
    (
        "ended within the grace time of a preemption",
        "5|TIMEOUT|0:0|0:0|None|40|30|node1",
        "",
        Outcome.PREEMPTED,
    ),
    ("scancel", "5|CANCELLED by 0|0:0|0:0|None|9|5|node1", "", Outcome.USER),
    ("cancelled while it waited", "5|CANCELLED by 1000|0:0|0:0|None|0|5|", "", Outcome.USER),
    (
        "folder that the node does not see",
        "5|FAILED|0:53|0:0|JobLaunchFailure|0|5|node1",
        "",
        Outcome.SETUP,
    ),
    ("the same by accounting", "5|FAILED|0:53|0:0|None|0|5|node1", "", Outcome.SETUP),
    ("node down", "5|NODE_FAIL|0:0|0:0|None|9|5|node1", "", Outcome.INFRASTRUCTURE),
    ("preempted", "5|PREEMPTED|0:0|0:0|None|9|5|node1", "", Outcome.PREEMPTED),
    (
        "preempted, wide words of narrow columns",
        "5|PREEMPTED+|0:0|0:0|None|9|5|node1",
        "",
        Outcome.PREEMPTED,
    ),
    (
        "requeued, then out of time: the last run counts",
        "5|REQUEUED|0:0|0:0|None|9|5|node1\n5|TIMEOUT|0:0|0:0|None|301|5|node2",
        "",
        Outcome.TIME,
    ),
    (
        "a collective whose peer died",
        "5|FAILED|1:0|0:0|None|90|500|node1",
        "RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:2222",
        Outcome.CRASH,
    ),
    ("nothing at all", "", "", Outcome.UNKNOWN),
    ("ended well, no marker", "5|COMPLETED|0:0|0:0|None|9|5|node1", "", Outcome.NO_MARKER),
]


def accounting(lines):
    return parse_accounting(lines.replace("|", "\x1f")).get("5", [])


@pytest.mark.parametrize(
    ("name", "lines", "log", "outcome"), RECORDED, ids=[r[0] for r in RECORDED]
)
def test_a_recorded_end_gets_its_class_and_an_advice(name, lines, log, outcome):
    started = not any(word in name for word in ("not found", "waited", "not see", "accounting"))
    rows = accounting(lines)
    verdict = classify(Attempt(plan="df-x", starts=int(started)), rows, log)
    assert verdict.outcome is outcome, verdict
    assert verdict.message


@pytest.mark.parametrize("start", ["06:19:09 ", "[rank 3] 06:19:09 ", "error: "])
def test_names_of_files_in_the_log_are_no_evidence(start):
    quoted = ("oom-kill.png", "out of memory", "DUE TO TIME LIMIT", "task 0: Killed", "NCCL abort")
    log = "".join(f"{start}skipped {name}\n" for name in quoted)
    rows = accounting("5|FAILED|1:0|0:0|None|3|5|node1")
    attempt = Attempt(plan="df-x", starts=1)
    assert classify(attempt, rows, log).outcome is Outcome.NO_MARKER
    log += "srun: error: node1: task 0: Out Of Memory\n"
    assert classify(attempt, rows, log).outcome is Outcome.MEMORY
    killed = "06:19:09 rank 0: ended by SIGKILL\n"
    assert classify(attempt, rows, killed).outcome is Outcome.KILLED


def test_what_the_job_recorded_weighs_more_than_what_slurm_reports():
    rows = accounting("5|FAILED|0:9|0:0|None|3|5|node1")
    reported = classify(Attempt(plan="df-x", outcome="exception", message="ValueError: x"), rows)
    assert (reported.outcome, reported.message) == (Outcome.EXCEPTION, "ValueError: x")


def test_an_element_is_known_by_array_and_index_in_what_the_controller_shows():
    (row,) = parse_details(
        "JobId=76 ArrayJobId=71 ArrayTaskId=5 JobName=x JobState=TIMEOUT Reason=TimeLimit "
        "ExitCode=0:15 DerivedExitCode=0:0 RunTime=1-00:05:30 TimeLimit=1-00:05:00 NodeList=node2"
    )
    assert (row.job, row.elapsed_s, row.limit_s) == ("71_5", 86730, 86700)
    assert classify(Attempt(plan="df-x", starts=1), [row]).outcome is Outcome.TIME


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UsageError(what="a", where="b", do="c"), Outcome.USAGE),
        (ModuleNotFoundError("No module named 'x'"), Outcome.SETUP),
        (MemoryError(), Outcome.MEMORY),
        (RuntimeError("CUDA out of memory. Tried"), Outcome.DEVICE_MEMORY),
        (OSError("stale file handle"), Outcome.EXCEPTION),
    ],
)
def test_an_exception_is_classified_where_it_is_raised(error, outcome):
    assert classify_exception(error) is outcome
