"""Files below ``RUN/slurm`` that jobs and drivers share.

::

    launch.json  state.json        `Launch`, `State`
    profile.yaml                   resolved
    submissions.jsonl              `Submissions`
    plans/NAME.json                `JobPlan` of the job NAME
    claims/NAME                    id of the job that owns the plan
    stops/NAME                     keeps the elements of an array from starting
    sbatch/NAME.sh                 batch script
    log/NAME_3.out  NAME.out       output of an array element; of a whole job
    log/NAME_rank3.out             output of a rank; NAME_rankbatch.out: of its batch script
    attempts/STAGE/part-00012.jsonl  `Attempt`s at one partition
    lease/00007/                   `hold_lease`
    snapshot/HASH/                 copies of the code, by content; if the path of the run has a
                                   colon, below .dinoforge in the nearest folder without one
    probe/                         answers of nodes
"""

import contextlib
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dinoforge.errors import DinoforgeError, UsageError
from dinoforge.files import write_json, write_text
from dinoforge.runs import now
from dinoforge.slurm.store.events import Submissions
from dinoforge.stages import part_name

__all__ = [
    "DUPLICATE",
    "JOB_PREFIX",
    "JobPlan",
    "Launch",
    "SlurmFolder",
    "State",
    "last_error",
    "log_tail",
]

JOB_PREFIX = "df-"  # start of the name of every job of dinoforge
DUPLICATE = 23  # exit code of a job whose plan belongs to another one

_RAISED = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit|Warning)\b")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What all jobs of a run share; written by the command that submits."""

    run_id: str  # in every job name: folder name and six digits of a hash of its path
    command: str  # curate, train, evaluate, shard
    pipeline: str  # import path, e.g. ``curation.pipeline:PIPELINE``; "" for train, evaluate
    device: str  # of the recipe
    folder: str  # working folder: relative paths of the recipe start there
    python_path: list[str]  # of the submitting process, absolute
    python: str  # interpreter that submitted; nodes use it unless the profile names one
    stages: dict[str, str] = field(default_factory=dict)  # name -> folder inside the run, in order
    snapshot: str = ""  # folder of the code; "": jobs run the code in place
    # of a training: recipes that evaluate its kept exports, see `slurm.store.evaluations`
    evaluations: list[str] = field(default_factory=list)

    @property
    def job_prefix(self) -> str:
        """Start of the name of every job of this run."""
        return f"{JOB_PREFIX}{self.run_id}-"


@dataclass(frozen=True, kw_only=True)
class State:
    """State of a run, as its last gate recorded it."""

    state: Literal["running", "waiting", "stopped", "finished", "cancelled"]
    stage: str = ""
    why: list[str] = field(default_factory=list)  # one line per cause
    do: str = ""  # what the user can do
    time: str = field(default_factory=now)


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The partitions of an array, or of a job of ranks: one file per job, not one per element.

    A plan is complete: its elements read neither the stage's plan nor the submissions, so a recipe
    that changes later does not affect a pending job. ``partitions`` and ``payloads`` go together;
    element ``k`` takes the ``k``-th run of ``per_element`` of them.
    """

    name: str = ""  # of the job
    stage: str
    ranks: bool = False  # its one partition is done by N ranks
    per_element: int
    partitions: list[int]
    payloads: list[dict[str, Any]]
    memory_gb: float
    minutes: int
    cpus: int
    gpus: int
    # of a stage of a pipeline
    pipeline: str = ""  # import path
    stage_fingerprint: str = ""  # what markers must prove; see `StagePlan`
    config: dict[str, Any] = field(default_factory=dict)  # the resolved recipe

    @property
    def elements(self) -> int:
        """Number of array elements."""
        return -(-len(self.partitions) // self.per_element)

    def first(self, elements: int) -> "JobPlan":
        """Cut the plan after some elements."""
        count = elements * self.per_element
        return replace(self, partitions=self.partitions[:count], payloads=self.payloads[:count])

    def element(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """Partitions of one element, with their payloads."""
        part = slice(number * self.per_element, (number + 1) * self.per_element)
        return list(zip(self.partitions[part], self.payloads[part], strict=True))


class SlurmFolder:
    """Files below ``RUN/slurm``; their names are at the top of this module."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.root = run / "slurm"
        self.profile = self.root / "profile.yaml"
        self.submissions = Submissions(self.root / "submissions.jsonl")
        self.scripts = self.root / "sbatch"
        self.stops = self.root / "stops"
        self.attempts = self.root / "attempts"
        self.lease = self.root / "lease"
        self.snapshots = self._without_colon() / "snapshot"
        self.logs = self.root / "log"
        self.probes = self.root / "probe"

    def _without_colon(self) -> Path:
        """Return a folder for the code: PYTHONPATH, which names it, is a list by colons."""
        parents = (folder for folder in self.run.parents if ":" not in str(folder))
        return next(parents) / ".dinoforge" if ":" in str(self.run) else self.root

    def stage_folders(self) -> list[Path]:
        """Folders of the stages of the run, in order; none without a pipeline."""
        return [self.run / folder for folder in self.read_launch().stages.values()]

    def log(self, name: str, part: int | str = "") -> Path:
        """Output of a job, or of its array element ``3`` or rank ``rank3``."""
        return self.logs / (f"{name}.out" if part == "" else f"{name}_{part}.out")

    def attempt(self, stage: str, index: int) -> Path:
        """File with the attempts at one partition."""
        return self.attempts / stage / f"{part_name(index)}.jsonl"

    def write_plan(self, plan: JobPlan) -> None:
        """Write the plan of a job."""
        write_json(self.root / "plans" / f"{plan.name}.json", asdict(plan))

    def read_plan(self, name: str) -> JobPlan:
        """Read the plan of a job."""
        text = (self.root / "plans" / f"{name}.json").read_text(encoding="utf-8")
        return JobPlan(**json.loads(text))

    def claim(self, name: str, job: str) -> bool:
        """Claim a plan for a job id; False if it belongs to another job.

        The first job whose element claims a plan owns it; a duplicate of that job does nothing.
        """
        path = self.root / "claims" / name
        if self.owner(name) is None:
            # Written aside and linked, so that nobody reads half of it.
            draft = path.with_name(f".{name}.tmp-{secrets.token_hex(8)}")
            write_text(draft, job)
            try:
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
            except OSError as error:
                raise DinoforgeError(f"cannot claim {path}: {error}") from error
            finally:
                draft.unlink(missing_ok=True)
        return self.owner(name) == job

    def owner(self, name: str) -> str | None:
        """Id of the job that owns a plan; None if none has started."""
        try:
            return (self.root / "claims" / name).read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def write_launch(self, launch: Launch) -> None:
        """Write ``launch.json``."""
        write_json(self.root / "launch.json", asdict(launch))

    def read_launch(self) -> Launch:
        """Read ``launch.json``; raises `UsageError` if the folder was never submitted."""
        try:
            facts = json.loads((self.root / "launch.json").read_text(encoding="utf-8"))
            # The JSON has sorted keys; the numbers of the folders give the order.
            stages = dict(sorted(facts.pop("stages").items(), key=lambda pair: pair[1]))
            return Launch(**facts, stages=stages)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                what="no run that was submitted to a cluster",
                where=str(self.run),
                do="name the folder given as out=FOLDER to a command with --on slurm:PROFILE",
            ) from error

    def write_state(self, state: State) -> None:
        """Write ``state.json``."""
        write_json(self.root / "state.json", asdict(state))

    def read_state(self) -> State | None:
        """Read ``state.json``; None before the first submission."""
        try:
            return State(**json.loads((self.root / "state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_cancelled(self) -> bool:
        """Report whether the run was cancelled: nothing more may be started."""
        state = self.read_state()
        return state is not None and state.state == "cancelled"


def log_tail(log: Path, *, start: int = 0, most: int = 16384) -> str:
    """Read the last ``most`` bytes of a log, none before ``start``; "" if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - most))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_error(log: Path, start: int) -> str:
    """Find the last ``error:`` line of a log, or the exception of its last traceback; "" if none.

    Bytes before ``start`` are of earlier starts of the job and do not count.
    """
    lines = log_tail(log, start=start, most=65536).splitlines()  # tracebacks of torch are long
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    tracebacks = [n for n, line in enumerate(lines) if line.startswith("Traceback")]
    last = max(tracebacks, default=len(lines))
    return next((line for line in lines[last:] if _RAISED.match(line)), "")
