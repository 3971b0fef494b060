"""A pipeline of two small stages, importable by worker processes."""

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dinoforge.stages import Stage


@dataclass(frozen=True)
class Policy:
    threshold: int = 3


@dataclass(frozen=True)
class ToyConfig:
    numbers: int = 20
    per_partition: int = 6
    pause_s: float = 0.0
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Square(Stage):
    name: str = "square"
    number: int = 10
    version: str = "1.0.0"
    keys: tuple = ("numbers", "per_partition")
    execution_keys: tuple = ("pause_s",)
    needs: tuple = ()

    def plan(self, inputs):
        config = inputs.config
        starts = range(0, config.numbers, config.per_partition)
        return [{"low": a, "high": min(a + config.per_partition, config.numbers)} for a in starts]

    def run(self, payload, inputs, out):
        _die_once(inputs.run_folder)
        time.sleep(inputs.config.pause_s)
        values = np.arange(payload["low"], payload["high"]) ** 2
        out.write_array("values", values)
        return {"count": len(values)}


@dataclass(frozen=True)
class Keep(Stage):
    name: str = "keep"
    number: int = 20
    version: str = "1.0.0"
    keys: tuple = ("policy",)
    needs: tuple = ("square",)

    def plan(self, inputs):
        return [{}]

    def run(self, payload, inputs, out):
        values = np.concatenate([np.load(p) for p in inputs.files("square", "values.npy")])
        kept = values[values > inputs.config.policy.threshold]
        out.write_array("kept", kept)
        return {"kept": len(kept), "before": sum(f["count"] for f in inputs.facts("square"))}


def _die_once(run_folder: Path) -> None:
    request = run_folder / "die-once"
    if request.exists():
        request.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
