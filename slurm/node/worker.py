"""What an array element runs: its partitions of one plan, one after the other.

    python -P -m dinoforge.slurm.node.worker RUN NAME

A partition is one of a stage, or an exported step of a training that is to be evaluated.

Exit codes: 0 all done, 20 a partition failed, 21 an error that all elements share, 22 the run or
the array was stopped, 23 a duplicate of a job that runs already.
"""

import functools
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dinoforge.config import config_of
from dinoforge.errors import DinoforgeError
from dinoforge.log import set_up_logging
from dinoforge.slurm.cluster.commands import ask
from dinoforge.slurm.node.command import blocked, classify_exit, start_command
from dinoforge.slurm.node.packing import run_next_stages
from dinoforge.slurm.outcomes import Outcome, Verdict, classify_exception
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.events import AttemptWriter
from dinoforge.slurm.store.layout import DUPLICATE, JobPlan, SlurmFolder
from dinoforge.slurm.store.logs import log_size
from dinoforge.stages import StagePlan, Task, find_pipeline, is_proved, make_inputs, run_task

__all__ = ["main"]

_log = logging.getLogger(__name__)

ALL_DONE, FAILED, SHARED_FAULT, STOPPED = 0, 20, 21, 22

# So many elements that fail alike within so many seconds of their start stop their array.
BURST = 3
BURST_S = 60.0


def main(arguments: Sequence[str]) -> int:
    """Run one array element."""
    folder, name = SlurmFolder(Path(arguments[0])), arguments[1]
    array, number = os.environ["SLURM_ARRAY_JOB_ID"], int(os.environ["SLURM_ARRAY_TASK_ID"])
    if not folder.claim(name, array):
        _log.warning("%s: another job runs this plan; nothing to do", name)
        return DUPLICATE
    if (folder.stops / name).exists():
        _log.warning("%s: stopped before this element began", name)
        return STOPPED
    element = _Element(folder, folder.read_plan(name), array, number)
    signal.signal(signal.SIGTERM, element.on_signal)
    code = element.run()
    if code == ALL_DONE and element.plan.pipeline and element.plan.elements == 1:
        run_next_stages(folder, element.plan)
    return code


@dataclass
class _Element:
    folder: SlurmFolder
    plan: JobPlan
    array: str
    number: int
    attempt: AttemptWriter | None = None  # the one that runs
    child: subprocess.Popen[bytes] | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Record a signal and go on.

        A preempted job that exits by itself counts as ended; only one that is killed is requeued.
        When the run was cancelled there is nothing to wait for.
        """
        if self.attempt is not None:
            self.attempt.signal(number)
        if self.folder.is_cancelled():
            if self.child is not None:
                self.child.kill()
            os._exit(STOPPED)

    def run(self) -> int:
        began, code = time.monotonic(), ALL_DONE
        for index, payload in self.plan.element(self.number):
            outcome = self._partition(index, payload)
            if outcome in {Outcome.SETUP, Outcome.USAGE} and self.plan.pipeline:
                if time.monotonic() - began < BURST_S:
                    self._count_burst(outcome)
                return SHARED_FAULT
            if outcome is not Outcome.DONE:
                code = FAILED
        return code

    def _partition(self, index: int, payload: dict[str, Any]) -> Outcome:
        """Do one partition, unless an earlier start of this element did it."""
        path = self.folder.attempt(self.plan.stage, index)
        attempt = AttemptWriter(path, plan=self.plan.name, job=f"{self.array}_{self.number}")
        verdict = Verdict(Outcome.DONE)
        try:
            if self.plan.pipeline:
                task = self._make_task(index, payload)
                if is_proved(task):
                    return Outcome.DONE
                self._start(attempt)
                run_task(task)
            else:
                evaluation = Evaluation(self.folder.run, payload["recipe"])
                if evaluation.is_done(index):
                    return Outcome.DONE
                self._start(attempt)
                verdict = self._evaluate(evaluation, index)
        except Exception as error:  # noqa: BLE001 - an element records every failure and goes on
            traceback.print_exc()
            text = " ".join(str(error).split())
            if not isinstance(error, DinoforgeError):
                text = f"{type(error).__name__}: {text}"
            verdict = Verdict(classify_exception(error), text)
        finally:
            self.attempt = None
        if verdict.outcome is Outcome.KILLED:  # the driver asks SLURM why
            _log.error("%s %d: %s", self.plan.stage, index, verdict.message)
        else:
            attempt.end(verdict.outcome, verdict.message)
        return verdict.outcome

    def _start(self, attempt: AttemptWriter) -> None:
        self.attempt = attempt
        attempt.start(memory_gb=self.plan.memory_gb, minutes=self.plan.minutes)

    @functools.cached_property
    def _make_task(self) -> Callable[[int, dict[str, Any]], Task]:
        # Late: importing the pipeline may fail, which is then recorded.
        pipeline = find_pipeline(self.plan.pipeline)
        stage = next(stage for stage in pipeline.stages if stage.name == self.plan.stage)
        config: Any = config_of(pipeline.config, self.plan.config)
        inputs = make_inputs(pipeline.name, pipeline.stages, self.folder.run, config)
        return StagePlan(stage, inputs, [], self.plan.stage_fingerprint).task

    def _evaluate(self, evaluation: Evaluation, step: int) -> Verdict:
        log = self.folder.log(self.plan.name, self.number)
        start = log_size(log)
        with blocked([signal.SIGTERM]):
            self.child = start_command(evaluation.arguments(step))
        return classify_exit(self.child.wait(), log, start, otherwise=f"see {log}")

    def _count_burst(self, outcome: Outcome) -> None:
        """Stop the whole array once `BURST` elements failed alike, early."""
        folder = (self.folder.stops / self.plan.name).with_suffix(".failed")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(self.number)).write_text(outcome, encoding="ascii")
        alike = [path for path in folder.iterdir() if path.read_text(encoding="ascii") == outcome]
        if len(alike) < BURST:
            return
        (self.folder.stops / self.plan.name).touch()
        try:  # where nodes may not cancel, pending elements end as soon as they start
            ask(["scancel", "--state=PENDING", self.array], timeout_s=30)
        except DinoforgeError as error:
            _log.warning("scancel: %s", error)


if __name__ == "__main__":
    set_up_logging()
    sys.exit(main(sys.argv[1:]))
