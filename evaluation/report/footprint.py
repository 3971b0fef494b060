"""Compute, energy and carbon of a training: what its files measured, and what is estimated.

Energy is hours x power x PUE, carbon is energy x carbon intensity, as in DINOv2's model card.
"""

import contextlib
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoforge.device import recognize_gpu

__all__ = ["CORE_WATTS", "Assumptions", "Compute", "Footprint", "estimate", "measure_compute"]

CORE_WATTS = 6.75  # of a busy CPU core: 270 W for 40 cores, Xeon Platinum 8380, data sheet


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What an estimate of energy and carbon rests on."""

    watts: float | None = None  # of a GPU or of a CPU core; None: its data sheet
    pue: float = 1.1  # power usage effectiveness of the data center (DINOv2, section 9)
    carbon_intensity: float = 0.385  # kg CO2eq per kWh (the same: the average of US grids)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Hours that a training used, over all its starts."""

    device: str  # "cpu", or the name of the GPU; "" if it is not recorded
    ranks: Sequence[int]  # processes of the starts, each number once
    ranks_are_recorded: bool  # else counted from the logs
    starts: int
    unended: int  # starts that recorded no end: killed, or still running
    seconds: float  # wall time
    is_of_starts: bool  # from starts and ends in run.json; else from the rows of metrics.jsonl
    hours: float | None  # of all GPUs, or of all busy CPU cores; None if nothing was recorded

    @property
    def unit(self) -> str:
        """GPU-hours, or those of CPU cores."""
        return "CPU-core-hours" if self.device == "cpu" else "GPU-hours"


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """An estimate by the formula of this module."""

    hours: float
    watts: float
    watts_source: str
    pue: float
    carbon_intensity: float  # kg CO2eq per kWh

    @property
    def energy_kwh(self) -> float:
        """Hours x power x PUE."""
        return self.hours * self.watts / 1000 * self.pue

    @property
    def carbon_kg(self) -> float:
        """Energy x carbon intensity."""
        return self.energy_kwh * self.carbon_intensity


def measure_compute(run: Path, facts: Mapping[str, Any]) -> Compute:
    """Add up what a training recorded in ``run.json`` (its ``facts``) and ``metrics.jsonl``.

    Work that a killed start lost is in neither; wall time is the larger of the two sums. The rows
    of ``metrics.jsonl`` are those of rank 0, times the largest number of ranks.
    """
    starts: Sequence[Mapping[str, Any]] = [*(facts.get("earlier") or []), facts]
    recorded = [int(start["ranks"]) for start in starts if start.get("ranks")]
    most = max(recorded, default=max(len(list((run / "log").glob("rank-*.txt"))), 1))
    lengths = [
        (seconds, int(start.get("ranks") or most))
        for start in starts
        if (seconds := _length(start)) is not None
    ]
    from_starts = sum(seconds for seconds, _ in lengths)
    wall, cpu = _clocks(run / "metrics.jsonl")
    devices = [
        device for start in starts if (device := (start.get("attention") or {}).get("device"))
    ]
    device = str(devices[-1]) if devices else ""
    if device == "cpu":
        busy = cpu * most
    else:
        of_ranks = sum(seconds * ranks for seconds, ranks in lengths)
        busy = of_ranks if from_starts >= wall else wall * most
    return Compute(
        device=device,
        ranks=tuple(dict.fromkeys(recorded or [most])),
        ranks_are_recorded=bool(recorded),
        starts=len(starts),
        unended=len(starts) - len(lengths),
        seconds=max(from_starts, wall),
        is_of_starts=from_starts >= wall,
        hours=busy / 3600 if device and busy else None,
    )


def estimate(compute: Compute, assumptions: Assumptions) -> Footprint | None:
    """Estimate energy and carbon; None if hours or power are unknown."""
    gpu = recognize_gpu(compute.device)
    watts, source = assumptions.watts, "given by the author"
    if watts is None and compute.device == "cpu":
        watts, source = CORE_WATTS, "per core: 270 W for 40 cores, Xeon Platinum 8380, data sheet"
    elif watts is None and gpu is not None:
        watts, source = gpu.watts, f"board power of the {gpu.name.upper()}, data sheet"
    if compute.hours is None or watts is None:
        return None
    return Footprint(
        hours=compute.hours,
        watts=watts,
        watts_source=source,
        pue=assumptions.pue,
        carbon_intensity=assumptions.carbon_intensity,
    )


def _length(start: Mapping[str, Any]) -> float | None:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        begin, end = (datetime.datetime.fromisoformat(start[n]) for n in ("started", "stopped"))
        return (end - begin).total_seconds()
    return None


def _clocks(metrics: Path) -> tuple[float, float]:
    """Sum wall and CPU seconds over the rows of the steps that count."""
    wall = cpu = 0.0
    with contextlib.suppress(OSError):
        for line in metrics.read_text(encoding="utf-8").splitlines():
            if line.endswith("}"):  # a killed process may leave half a line
                row = json.loads(line)
                wall += row.get("clock/wall_s", 0.0)
                cpu += row.get("clock/cpu_s", 0.0)
    return wall, cpu
