"""Why partitions are missing: gathers evidence, asks `failures`, writes down what was found."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dinoforge.slurm.cluster.commands import Queued, accounted, shown
from dinoforge.slurm.decisions import Ending
from dinoforge.slurm.failures import Evidence, Outcome, Row, Verdict, classify
from dinoforge.slurm.store.attempts import Attempt, judge, read_attempts
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.ledger import Submission
from dinoforge.slurm.store.logs import log_tail
from dinoforge.slurm.store.plans import ArrayPlan, read_plan

__all__ = ["Judge", "why_ended"]


@dataclass
class Judge:
    """Knows the arrays of one stage and how each of their elements ended."""

    folder: SlurmFolder
    stage: str
    arrays: Sequence[Submission]  # that count, oldest first
    queued: Sequence[Queued]
    missing: Collection[int]  # partitions without a marker
    _plans: list[tuple[Submission, ArrayPlan]] = field(default_factory=list)
    _rows: dict[str, list[Row]] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for array in self.arrays:
            path = self.folder.plan(array.name)
            if path.is_file():
                self._plans.append((array, read_plan(path)))

    def in_flight(self) -> set[int]:
        """Partitions of elements that wait or run."""
        live = {(job.name, job.element or 0) for job in self.queued}
        return {
            index
            for _, plan in self._plans
            for number in range(plan.elements)
            if (plan.name, number) in live
            for index, _ in plan.element(number)
        }

    def histories(self, partitions: Iterable[int]) -> dict[int, list[Ending]]:
        """Tell how every attempt at the given partitions ended, oldest first.

        What a job did not say itself is judged once and written beside its own lines: SLURM
        forgets.
        """
        wanted = set(partitions)
        lines = {index: self._lines(index) for index in sorted(wanted)}
        found: dict[int, list[Ending]] = {index: [] for index in wanted}
        for array, plan in self._plans:
            members = set(plan.partitions)
            alone = members <= set(self.missing)
            for number in range(plan.elements):
                here = [index for index, _ in plan.element(number)]
                progressed = any(index not in self.missing for index in here)
                begun = any(plan.name in self._known(lines, index) for index in here)
                for index in here:
                    if index not in wanted:
                        continue
                    attempt = lines[index].get(plan.name)
                    if attempt is None or not attempt.outcome:
                        attempt = self._judged(array, plan, (number, index), attempt, begun)
                    found[index].append(_ending(attempt, progressed=progressed, alone=alone))
        return found

    def _lines(self, index: int) -> dict[str, Attempt]:
        path = self.folder.attempt(self.stage, index)
        return {attempt.plan: attempt for attempt in read_attempts(path)}

    def _known(self, lines: dict[int, dict[str, Attempt]], index: int) -> dict[str, Attempt]:
        return lines[index] if index in lines else self._lines(index)

    def _judged(
        self,
        array: Submission,
        plan: ArrayPlan,
        place: tuple[int, int],
        attempt: Attempt | None,
        begun: bool,
    ) -> Attempt:
        number, index = place
        job = f"{array.job}_{number}"
        started = attempt is not None
        if not started and (begun or self.folder.stop(plan.name).exists()):
            outcome, message = Outcome.NOT_STARTED, "its element ended before its turn"
        else:
            verdict = classify(
                Evidence(
                    started=started,
                    signals=attempt.signals if attempt is not None else (),
                    rows=self._rows_of(array.job, job),
                    log=log_tail(self.folder.log(plan.name, number)),
                )
            )
            outcome, message = verdict.outcome, verdict.message
        known = attempt or Attempt(
            plan=plan.name, job=job, memory_gb=plan.memory_gb, minutes=plan.minutes
        )
        judge(self.folder.attempt(self.stage, index), known, outcome, message)
        return replace(known, outcome=str(outcome), message=message)

    def _rows_of(self, array: str, job: str) -> list[Row]:
        if array not in self._asked:
            self._asked.add(array)
            self._rows |= accounted([array])
        if job not in self._rows or self._rows[job][0].state in {"PENDING", "RUNNING"}:
            # The accounting is a second late, or off.
            told = shown(job)
            if told:
                steps = self._rows.get(job, [])[1:]
                self._rows[job] = [*told, *steps]
        return self._rows.get(job, [])


def why_ended(entry: Submission, known: Attempt, logs: Sequence[Path]) -> Verdict:
    """Find out why a job that is no array ended without a word of its own.

    Parameters
    ----------
    entry, known
        The job, and what it said before its end.
    logs : sequence of Path
        Its output.
    """
    return classify(
        Evidence(
            started=bool(known.starts),
            signals=known.signals,
            rows=accounted([entry.job]).get(entry.job) or shown(entry.job),
            log="".join(map(log_tail, logs)),
        )
    )


def _ending(attempt: Attempt, *, progressed: bool, alone: bool) -> Ending:
    outcome = Outcome(attempt.outcome)
    if outcome is Outcome.DONE:
        outcome = Outcome.NO_MARKER  # its files went, or were made from another recipe
    return Ending(
        outcome=outcome,
        message=attempt.message,
        memory_gb=attempt.memory_gb,
        minutes=attempt.minutes,
        progressed=progressed,
        alone=alone,
    )
