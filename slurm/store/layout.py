"""Paths below ``RUN/slurm``, and two small files there: what was launched, and its state.

::

    launch.json  state.json  profile.yaml  submissions.jsonl
    plans/NAME.json  sbatch/NAME.sh  log/NAME_3.out  claims/NAME  stops/NAME
    attempts/STAGE/part-00012.jsonl  lease/00007/  snapshot/HASH/  probe/
"""

import datetime
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinoforge.errors import UsageError
from dinoforge.files import write_json
from dinoforge.stages import part_name

__all__ = ["JOB_PREFIX", "Launch", "SlurmFolder", "State", "now"]

JOB_PREFIX = "df-"  # start of the name of every job of dinoforge


def now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What all jobs of a run share; written by the command that submits."""

    run_id: str  # in every job name: folder name and six digits of a hash of its path
    command: str  # curate, train, evaluate
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


class SlurmFolder:
    """Paths below ``RUN/slurm``."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.root = run / "slurm"
        self.profile = self.root / "profile.yaml"  # resolved
        self.submissions = self.root / "submissions.jsonl"  # see `Submissions`
        self.lease = self.root / "lease"  # see `hold_lease`
        self.snapshots = self.root / "snapshot"  # copies of the code, by content
        self.logs = self.root / "log"
        self.probes = self.root / "probe"  # tokens that nodes have to read, and their answers

    def plan(self, name: str) -> Path:
        """Plan file of a job, by its name."""
        return self.root / "plans" / f"{name}.json"

    def script(self, name: str) -> Path:
        """Batch script of a job."""
        return self.root / "sbatch" / f"{name}.sh"

    def log(self, name: str, element: int | str | None = None) -> Path:
        """Output of one array element (or of the whole job)."""
        return self.logs / (f"{name}.out" if element is None else f"{name}_{element}.out")

    def rank_log(self, name: str, rank: int | str) -> Path:
        """Output of one rank of a job; ``batch``: of its batch script."""
        return self.logs / f"{name}_rank{rank}.out"

    def claim(self, name: str) -> Path:
        """File with the id of the job that owns a plan; written by its first element."""
        return self.root / "claims" / name

    def stop(self, name: str) -> Path:
        """File that keeps the elements of an array from starting."""
        return self.root / "stops" / name

    def attempts(self, stage: str) -> Path:
        """Folder of the attempts of a stage."""
        return self.root / "attempts" / stage

    def attempt(self, stage: str, index: int) -> Path:
        """File with the attempts at one partition."""
        return self.attempts(stage) / f"{part_name(index)}.jsonl"

    def read_launch(self) -> Launch:
        """Read ``launch.json``.

        Raises
        ------
        UsageError
            If the folder holds no run that was submitted.
        """
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

    def write_launch(self, launch: Launch) -> None:
        """Write ``launch.json``."""
        write_json(self.root / "launch.json", asdict(launch))

    def read_state(self) -> State | None:
        """Read ``state.json``; None before the first submission."""
        try:
            facts: dict[str, Any] = json.loads((self.root / "state.json").read_text("utf-8"))
            return State(**facts)
        except (OSError, ValueError, TypeError):
            return None

    def is_cancelled(self) -> bool:
        """Report whether the run was cancelled: nothing more may be started."""
        state = self.read_state()
        return state is not None and state.state == "cancelled"

    def write_state(self, state: State) -> None:
        """Write ``state.json``."""
        write_json(self.root / "state.json", asdict(state))
