"""How the attempts at the missing partitions of a stage ended.

What a job did not record itself is classified once, from what SLURM and its log say, and recorded
beside its own lines: SLURM forgets.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from dinoforge.slurm.cluster.commands import Queued, accounted, shown
from dinoforge.slurm.outcomes import NOT_STARTED, Outcome, Row, Verdict, classify
from dinoforge.slurm.retries import Ending
from dinoforge.slurm.store.events import Attempt, AttemptWriter, Submission, read_attempts
from dinoforge.slurm.store.layout import JobPlan, SlurmFolder
from dinoforge.slurm.store.logs import log_tail

__all__ = ["History"]

_SAYS_NOTHING = {"", Outcome.DONE, Outcome.PREEMPTED}


@dataclass(frozen=True)
class _Element:
    """One array element, or one job of ranks, and what became of its partitions."""

    entry: Submission
    plan: JobPlan
    number: int
    progressed: bool  # as in `Ending`
    alone: bool  # as in `Ending`

    @property
    def job(self) -> str:
        return self.entry.job if self.plan.ranks else f"{self.entry.job}_{self.number}"


@dataclass
class History:
    """The jobs of one stage, and how each attempt ended."""

    folder: SlurmFolder
    stage: str
    submissions: Sequence[Submission]  # that count, oldest first
    missing: Collection[int]  # partitions that nothing proves done
    progress: int  # as in `Submission`, now
    _elements: dict[int, list[_Element]] = field(init=False)  # by missing partition
    _attempts: dict[int, dict[str, Attempt]] = field(default_factory=dict)  # by partition and job
    _accounted: dict[str, dict[str, list[Row]]] = field(default_factory=dict)  # by job

    def __post_init__(self) -> None:
        self._elements = {index: [] for index in self.missing}
        after = [*(entry.progress for entry in self.submissions), self.progress][1:]
        for entry, progress in zip(self.submissions, after, strict=True):
            try:
                plan = self.folder.read_plan(entry.name)
            except FileNotFoundError:
                continue
            alone = set(plan.partitions) <= set(self.missing)
            for number in range(plan.elements):
                indices = [index for index, _ in plan.element(number)]
                progressed = any(index not in self.missing for index in indices)
                if plan.ranks:
                    progressed = progress > entry.progress
                element = _Element(entry, plan, number, progressed, alone)
                for index in self._elements.keys() & indices:
                    self._elements[index].append(element)

    def endings(self, queued: Sequence[Queued]) -> dict[int, list[Ending]]:
        """How the attempts at each missing partition that is in no live job ended, oldest first."""
        live = {(job.name, job.element or 0) for job in queued}
        return {
            index: [self._ending(element, index) for element in elements]
            for index, elements in self._elements.items()
            if not any((element.plan.name, element.number) in live for element in elements)
        }

    def _ending(self, element: _Element, partition: int) -> Ending:
        plan = element.plan
        attempt = self._of(partition).get(plan.name) or Attempt(plan=plan.name)
        if not attempt.outcome:
            verdict = self._classify(element, attempt)
            attempt = replace(attempt, outcome=verdict.outcome, message=verdict.message)
            path = self.folder.attempt(self.stage, partition)
            writer = AttemptWriter(path, plan=plan.name, job=element.job)
            writer.classified(verdict.outcome, verdict.message)
        verdict = classify(attempt)
        return Ending(
            outcome=verdict.outcome,
            message=verdict.message,
            memory_gb=plan.memory_gb,
            minutes=plan.minutes,
            progressed=element.progressed,
            alone=element.alone,
            in_vain=element.entry.progress == self.progress,
        )

    def _classify(self, element: _Element, attempt: Attempt) -> Verdict:
        plan, number = element.plan, element.number
        if plan.ranks:
            # Another rank may have recorded how it ended; rank 0 then ended because of it.
            for path in sorted((self.folder.attempts / self.stage).glob("part-*.jsonl")):
                for other in read_attempts(path):
                    if other.plan == plan.name and other.outcome not in _SAYS_NOTHING:
                        return Verdict(Outcome(other.outcome), other.message)
            logs = [self.folder.rank_log(plan.name, rank) for rank in (0, "batch")]
        else:
            begun = any(plan.name in self._of(index) for index, _ in plan.element(number))
            if not attempt.starts and (begun or (self.folder.stops / plan.name).exists()):
                return Verdict(Outcome.NOT_STARTED, NOT_STARTED)
            logs = [self.folder.log(plan.name, number)]
        return classify(attempt, self._rows_of(element), "".join(map(log_tail, logs)))

    def _of(self, partition: int) -> dict[str, Attempt]:
        """Read the attempts at a partition, by job name."""
        if partition not in self._attempts:
            attempts = read_attempts(self.folder.attempt(self.stage, partition))
            self._attempts[partition] = {attempt.plan: attempt for attempt in attempts}
        return self._attempts[partition]

    def _rows_of(self, element: _Element) -> list[Row]:
        array = element.entry.job
        if array not in self._accounted:
            self._accounted[array] = accounted([array])  # one query for all elements
        rows = self._accounted[array].get(element.job, [])
        if not rows or rows[0].state in {"PENDING", "RUNNING"}:
            details = shown(element.job)  # the accounting is a second late, or off
            rows = [*details, *rows[1:]] if details else rows
        return rows
