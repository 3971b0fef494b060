"""What stops a run before it does damage: values that are not finite, and signals."""

import logging
import math
import signal
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from dinoforge.errors import DinoforgeError

__all__ = ["StopSignals", "check_finite"]

_log = logging.getLogger(__name__)


def check_finite(
    step: int, total: Tensor, norms: Mapping[str, Tensor], keys: Sequence[str]
) -> None:
    """Refuse the update of a step whose loss or gradient is not finite.

    Raises
    ------
    DinoforgeError
        Names the step, what is not finite, and the samples of the batch. Neither the student nor
        the teacher has been touched.
    """
    names = ["loss", *(f"gradient of {name}" for name in norms)]
    values = torch.stack([total.detach(), *norms.values()]).tolist()  # one wait for the device
    bad = [name for name, value in zip(names, values, strict=True) if not math.isfinite(value)]
    if bad:
        named = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        raise DinoforgeError(
            f"{' and '.join(bad)} not finite before the update of step {step + 1} - samples {named}"
            " - look at these images, or lower optimizer.lr; checkpoints up to here are good"
        )


class StopSignals:
    """Turn TERM, INT, USR1 and USR2 into a flag that the loop reads between two steps."""

    _WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.received: str = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in self._WATCHED:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice at a keyboard: now
        self.received = signal.Signals(number).name
        _log.info("%s received: saving after this step", self.received)
