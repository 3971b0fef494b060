"""What an evaluation job of a training runs: one recipe, one exported step.

    python -P -m dinoforge.slurm.node.measure RUN NAME RECIPE STEP MEMORY_GB MINUTES

A torch-free parent that starts ``dinoforge evaluate`` and writes down how it went. TERM is written
down and not obeyed, by the child neither: a preempted job that exits by itself is not started again
by SLURM, one that is killed is.

Exit codes: 0 done; 23 a double of a job that runs already; the child's own below 64; 71 the child
was killed; 75 it was told to stop.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from dinoforge.errors import UsageError
from dinoforge.log import set_up_logging
from dinoforge.slurm.failures import Outcome
from dinoforge.slurm.node.rank import AGAIN, KILLED
from dinoforge.slurm.store.attempts import AttemptWriter
from dinoforge.slurm.store.claims import DOUBLE, claim
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.logs import last_words, log_size

__all__ = ["main"]

_log = logging.getLogger(__name__)


def main(words: Sequence[str]) -> int:
    """Measure one exported step."""
    folder, name, step = SlurmFolder(Path(words[0])), words[1], int(words[3])
    evaluation = Evaluation(folder.run, words[2])
    job = os.environ.get("SLURM_JOB_ID", "")
    if not claim(folder, name, job):
        _log.warning("%s: another job runs this; nothing to do", name)
        return DOUBLE
    attempt = AttemptWriter(folder.attempt(evaluation.stage, step), plan=name, job=job)
    attempt.start(memory_gb=float(words[4]), minutes=int(words[5]))
    log = folder.log(name)
    said_before = log_size(log)
    code = 0 if evaluation.is_done(step) else _run_child(folder, evaluation, step, attempt)
    if code < 0:
        # No end is written: who comes next asks SLURM why.
        _log.error("the evaluation was ended by %s", signal.Signals(-code).name)
        return KILLED
    if code == 0:
        attempt.end(Outcome.DONE)
        return 0
    if code == AGAIN:
        attempt.end(Outcome.PREEMPTED, "it was told to stop")
        return AGAIN
    told = last_words(log, said_before) or f"see {log}"
    attempt.end(Outcome.USAGE if code == UsageError.exit_code else Outcome.EXCEPTION, told)
    return min(code, 63)


def _run_child(
    folder: SlurmFolder, evaluation: Evaluation, step: int, attempt: AttemptWriter
) -> int:
    words = [sys.executable, "-m", "dinoforge", *evaluation.words(step)]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    # The working folder must not win over the snapshot.
    child = subprocess.Popen(words, env=os.environ | {"PYTHONSAFEPATH": "1"})

    def note(number: int, _frame: FrameType | None) -> None:
        attempt.signal(signal.Signals(number).name.removeprefix("SIG"))
        if folder.is_cancelled():
            child.kill()

    signal.signal(signal.SIGTERM, note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return child.wait()


if __name__ == "__main__":
    set_up_logging()
    sys.exit(main(sys.argv[1:]))
