"""The small job between two stages: reads markers, submits what is missing or what comes next.

    python -P -m dinoforge.slurm.node.gate RUN

Exit codes: 0 the run goes on or is finished, 64 it waits for a person, 65 SLURM did not answer,
66 another driver was at work all the time.
"""

import logging
import sys
import time
from pathlib import Path

from dinoforge.config import load_config
from dinoforge.config.paths import quote_path
from dinoforge.errors import DinoforgeError
from dinoforge.log import log_to_folder, set_up_logging
from dinoforge.slurm.cluster.commands import SlurmUnavailableError
from dinoforge.slurm.driver import advance
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.lease import LeaseBusyError

__all__ = ["main"]

GOES_ON, NEEDS_A_PERSON, NO_ANSWER, BUSY = 0, 64, 65, 66

_log = logging.getLogger(__name__)


def main(run: Path) -> int:
    """Advance a run by one step; retries, as a controller may be away for a while."""
    log_to_folder(run / "log")
    try:
        minutes = load_config(Profile, SlurmFolder(run).profile).job("gate", "gate").minutes
        deadline = time.monotonic() + 0.6 * 60 * minutes  # one more attempt may take ten minutes
        while True:
            try:
                state = advance(run, on_node=True)
            except (SlurmUnavailableError, LeaseBusyError) as error:
                if time.monotonic() > deadline:
                    _log.error("gate: %s - %s - dinoforge retry %s", error, run, quote_path(run))
                    return NO_ANSWER if isinstance(error, SlurmUnavailableError) else BUSY
                _log.warning("gate: %s; trying again", error)
                time.sleep(30.0)
            else:
                return GOES_ON if state.state in {"running", "finished"} else NEEDS_A_PERSON
    except DinoforgeError as error:
        _log.error("gate: %s", error)
        return NEEDS_A_PERSON


if __name__ == "__main__":
    set_up_logging()
    sys.exit(main(Path(sys.argv[1])))
