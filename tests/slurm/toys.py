"""A torch-free pipeline whose partitions misbehave on request, importable on the nodes.

A file ``bad-12`` in the run folder sets what partition 12 of the first stage does (``bad-keep``:
what the second stage does): ``die`` (kill -9 of itself), ``die-once``, ``memory MIB``, ``raise
TEXT``, ``raise-once``, ``import``, ``hang`` (until the file goes), ``usage``. Files ``began-12-*``
show how often it began.
"""

import os
import platform
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinoforge.config.paths import PathText
from dinoforge.errors import UsageError
from dinoforge.files import write_json
from dinoforge.stages import Inputs, Output, Pipeline, Stage, make_inputs


@dataclass(frozen=True)
class ToyConfig:
    out: PathText = "???"
    numbers: int = 20
    per_partition: int = 5
    threshold: int = 3
    seconds: float = 0.0
    device: str = "cpu"


@dataclass(frozen=True)
class Square(Stage):
    name: str = "square"
    number: int = 10
    version: str = "1.0.0"
    keys: tuple[str, ...] = ("numbers", "per_partition")
    execution_keys: tuple[str, ...] = ("seconds",)
    needs: tuple[str, ...] = ()

    def plan(self, inputs: Inputs):
        config = inputs.config
        starts = range(0, config.numbers, config.per_partition)
        return [{"low": a, "high": min(a + config.per_partition, config.numbers)} for a in starts]

    def run(self, payload, inputs: Inputs, out: Output):
        misbehave(inputs.run_folder, payload["low"] // inputs.config.per_partition)
        time.sleep(inputs.config.seconds)
        values = np.arange(payload["low"], payload["high"]) ** 2
        out.write_array("values", values)
        return {"count": len(values)}


@dataclass(frozen=True)
class Keep(Stage):
    name: str = "keep"
    number: int = 20
    version: str = "1.0.0"
    keys: tuple[str, ...] = ("threshold",)
    execution_keys: tuple[str, ...] = ("device",)
    needs: tuple[str, ...] = ("square",)
    runs_on: str = "gpu"

    def plan(self, inputs: Inputs):
        return [{}]

    def run(self, payload, inputs: Inputs, out: Output):
        misbehave(inputs.run_folder, "keep")
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        (inputs.run_folder / "gpus-of-keep").write_text(gpus)
        values = np.concatenate([np.load(p) for p in inputs.files("square", "values.npy")])
        kept = values[values > inputs.config.threshold]
        out.write_array("kept", kept)
        return {"kept": len(kept)}


def misbehave(run: Path, partition: int | str) -> None:
    request = run / f"bad-{partition}"
    if not request.exists():
        return
    (run / f"began-{partition}-{os.getpid()}-{time.time_ns()}").touch()
    word, _, rest = request.read_text().partition(" ")
    if word.endswith("-once"):
        request.unlink()
    word = word.removesuffix("-once")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "memory":
        block = np.ones(int(rest) << 17)  # float64: 8 bytes
        block += 1
    elif word == "raise":
        raise ValueError(rest or "a bad number")
    elif word == "import":
        raise ModuleNotFoundError("No module named 'nowhere'")
    elif word == "usage":
        raise UsageError(what="nothing to square", where="numbers", do="give some")
    elif word == "hang":
        while request.exists():
            time.sleep(0.1)


def _check(config) -> None:
    if config.numbers < 0:
        raise UsageError(what="`numbers` is negative", where="recipe", do="give 0 or more")
    node = platform.node()
    if config.numbers == 7 and node.startswith("node"):
        raise UsageError(what=f"node {node} lacks what 7 needs", where="recipe", do="give 5")


def _summary(run_folder: Path) -> Path:
    return run_folder / "toy" / "summary.json"


def _reopen(run_folder: Path) -> None:
    _summary(run_folder).unlink(missing_ok=True)


def _finish(run_folder: Path, config):
    inputs = make_inputs("toy", STAGES, run_folder, config)
    summary = inputs.facts("keep")[0]
    write_json(_summary(run_folder), summary)
    return summary


STAGES = (Square(), Keep())
PIPELINE = Pipeline("toy", STAGES, ToyConfig, _check, _reopen, _finish)
