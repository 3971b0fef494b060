"""What stops a run between two updates: values that are not finite, and signals."""

import itertools
import logging
import math
import signal
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from dinoforge.errors import DinoforgeError, RankStopped
from dinoforge.training.distributed.local_ranks import STOP_SIGNALS
from dinoforge.training.distributed.ranks import (
    RankInfo,
    all_gather_objects,
    rank,
    sum_over_ranks,
    world_size,
)
from dinoforge.training.methods.method import Losses

__all__ = ["StopSignals", "check_finite"]

_log = logging.getLogger(__name__)


def check_finite(
    step: int, losses: Sequence[Losses], norms: Mapping[str, Tensor], keys: Sequence[str]
) -> float:
    """Return the loss of a step over all ranks, or raise before its update.

    Takes the updates done so far, the losses of this rank's micro-batches, the gradient norms of
    `clip_gradients`, equal on all ranks, and the keys of this rank's images.

    Raises
    ------
    DinoforgeError
        If the loss or a gradient is not finite on any rank. Raised on rank 0 (`RankStopped` on the
        others): names the step, what is not finite, and the samples of ranks with such a loss.
    """
    own = torch.stack([part.total for part in losses]).mean()
    names = ["loss", *(f"gradient of {name}" for name in norms)]
    total = sum_over_ranks(own) / world_size()
    values: list[float] = torch.stack([total, *norms.values()]).tolist()  # one wait for the device
    bad = [name for name, value in zip(names, values, strict=True) if not math.isfinite(value)]
    if not bad:
        return values[0]
    of_ranks = all_gather_objects((math.isfinite(own.item()), list(keys)))
    if rank():
        raise RankStopped(DinoforgeError.exit_code)
    suspects = [part for finite, part in of_ranks if not finite] or [part for _, part in of_ranks]
    samples = list(itertools.chain.from_iterable(suspects))
    shown = ", ".join(samples[:8]) + (f" and {len(samples) - 8} more" if samples[8:] else "")
    raise DinoforgeError(
        f"{' and '.join(bad)} not finite before the update of step {step + 1} - samples {shown}"
        " - check these images, or lower optimizer.lr; earlier checkpoints are not affected"
    )


class StopSignals:
    """Turn `STOP_SIGNALS` into a flag that the loop reads after each step."""

    def __init__(self) -> None:
        self.received = 0  # number of the signal
        self._before: dict[int, Any] = {}
        self._mask: set[int] = set()

    def __enter__(self) -> "StopSignals":
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        # The parent may have blocked them, so that none is lost during imports.
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        # One of several ranks reports an error although its launcher already ends it.
        is_failing_rank = kind is not None and RankInfo.of_environment().world_size > 1
        for number, handler in self._before.items():
            ignored = is_failing_rank and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ignored else handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # Ctrl-C twice: stop now
        self.received = number
        _log.info("%s received: saving after this step", signal.Signals(number).name)
