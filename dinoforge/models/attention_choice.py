"""Choose the attention back end: the requested one, or under ``auto`` the best on this device.

On a GPU ``auto`` runs every back end on the shapes of the run, forward and backward, and takes the
fastest that agrees with the reference. On a CPU a rule decides, so that every start of a recipe
gives the same bits.
"""

import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dinoforge.errors import UsageError, first_line
from dinoforge.models.attention import (
    BACKENDS,
    HALF_PRECISION,
    attend,
    longest_sequence,
    token_counts,
)

__all__ = [
    "AGREEMENT",
    "AttentionChoice",
    "AttentionProblem",
    "choose_attention",
    "probe",
    "relative_difference",
]

REFERENCE = "sdpa"

# Largest difference between two back ends, relative to the largest value of the output or of a
# gradient: about ten times the rounding of the dtype, because sums over tokens differ in order.
AGREEMENT: Mapping[torch.dtype, float] = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}

# Not `plain` on GPUs: it keeps every score, [B, H, N, N], for the backward pass.
_GPU_CANDIDATES = (REFERENCE, "varlen", "xformers")
# Least speedup over the reference: below it, the next start of the run could measure the opposite.
_LEAST_GAIN = 1.05
_FLASH_CAPABILITY = (8, 0)  # of the GPU; varlen uses flash attention only
_XFORMERS = "xformers>=0.0.35"  # the first version that does not pin torch

# Runs queued before the device is synchronized, as in training; rounds of back ends interleave.
_RUNS, _ROUNDS = 4, 5
# Raised by kernels that cannot run: not built, wrong shape or dtype, broken package, memory.
_KERNEL_ERRORS = (ImportError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class AttentionProblem:
    """The attention of one layer of a run."""

    shapes: tuple[tuple[int, int], ...]  # (B, N) of each crop size
    heads: int
    channels: int  # per head
    dtype: torch.dtype  # of queries, keys and values
    device: torch.device
    packed: bool = True  # all crop sizes in one call


@dataclass(frozen=True, kw_only=True)
class AttentionChoice:
    """A back end, and why it was chosen."""

    backend: str
    reason: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)  # forward + backward, per layer
    refused: Mapping[str, str] = field(default_factory=dict)  # back end -> why it cannot run here


def choose_attention(name: str, problem: AttentionProblem) -> AttentionChoice:
    """Choose the back end of a run; ``name`` is ``auto`` or one of `BACKENDS`.

    Raises
    ------
    UsageError
        If the requested back end is unknown, or lacks a package, a precision or a device.
    """
    is_gpu = problem.device.type == "cuda"
    if name == "auto":
        return probe(problem, _GPU_CANDIDATES) if is_gpu else _rule_for_cpus(problem)
    if name not in BACKENDS:
        raise UsageError(
            what=f"unknown attention back end `{name}`",
            where="model.attention",
            do=f"choose one of auto, {', '.join(BACKENDS)}",
        )
    what, do = _obstacle(name, problem)
    if not what and is_gpu and (failure := _failure(_Trial(problem), name)):
        what = f"{name} attention does not run here: {failure}"
    if what:
        raise UsageError(what=what, where=f"model.attention={name}", do=f"{do}model.attention=auto")
    return AttentionChoice(backend=name, reason="set by the recipe")


def probe(problem: AttentionProblem, candidates: Sequence[str]) -> AttentionChoice:
    """Run back ends on a problem, and choose the fastest that agrees with `sdpa`, the first one.

    Takes a fraction of a second on a GPU. Does not touch torch's global generator.
    """
    assert candidates[0] == REFERENCE, "the others are compared with the reference"
    trial = _Trial(problem)
    expected = trial.run(REFERENCE)
    failures = {
        name: _obstacle(name, problem)[0] or _failure(trial, name, expected) for name in candidates
    }
    refused = {name: failure for name, failure in failures.items() if failure}
    milliseconds = trial.milliseconds([name for name in candidates if name not in refused])
    best = min(milliseconds, key=milliseconds.__getitem__)
    if milliseconds[REFERENCE] < _LEAST_GAIN * milliseconds[best]:
        best = REFERENCE
    times = ", ".join(f"{name} {value:.2f} ms" for name, value in milliseconds.items())
    missing = "".join(f"; not {name} ({failure})" for name, failure in refused.items())
    reason = f"attention per layer takes {times}{missing}"
    return AttentionChoice(backend=best, reason=reason, milliseconds=milliseconds, refused=refused)


def relative_difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference over the largest expected value, the worst of all tensors."""
    worst = 0.0
    for one, other in zip(actual, expected, strict=True):
        if other.numel():
            scale = max(other.double().abs().max().item(), sys.float_info.min)
            share = (one.double() - other.double()).abs().max().item() / scale
            worst = share if math.isnan(share) else max(worst, share)
    return worst


class _Trial:
    """The same random tokens and gradients for every back end."""

    def __init__(self, problem: AttentionProblem) -> None:
        self.device = problem.device
        self.groups = [problem.shapes] if problem.packed else [(s,) for s in problem.shapes]
        self.qkv, self.gradients = [], []
        generator = torch.Generator(problem.device).manual_seed(0)
        for shapes in self.groups:
            size = (sum(token_counts(shapes)), 4, problem.heads, problem.channels)
            drawn = torch.randn(size, generator=generator, device=problem.device)
            drawn = drawn.to(problem.dtype)
            self.qkv.append(drawn[:, :3].detach().clone().requires_grad_())
            self.gradients.append(drawn[:, 3].contiguous())

    def run(self, name: str) -> list[Tensor]:
        """Return outputs and gradients of a forward and backward pass."""
        # Independent of a caller's no_grad or autocast.
        with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            outputs = [attend(x, s, name) for x, s in zip(self.qkv, self.groups, strict=True)]
            gradients = torch.autograd.grad(outputs, self.qkv, self.gradients)
        return [*(out.detach() for out in outputs), *gradients]

    def milliseconds(self, names: Sequence[str]) -> dict[str, float]:
        """Return the median time of a run by each back end."""
        times: dict[str, list[float]] = {name: [] for name in names}
        for name in [*names] * _ROUNDS:
            self._synchronize()
            started = time.perf_counter()
            for _ in range(_RUNS):
                self.run(name)
            self._synchronize()
            times[name].append(1000 * (time.perf_counter() - started) / _RUNS)
        return {name: statistics.median(values) for name, values in times.items()}

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _rule_for_cpus(problem: AttentionProblem) -> AttentionChoice:
    """Choose `plain` for short sequences.

    Measured (docs/decisions/0008): under bfloat16 it is faster well beyond 64 tokens, but from
    there its stored scores exceed the tokens; in float32 only up to 32 tokens of narrow heads.
    """
    longest = longest_sequence(problem.shapes)
    half = problem.dtype == torch.bfloat16
    is_short = longest <= 64 if half else longest <= 32 and problem.channels <= 32
    dtype = str(problem.dtype).removeprefix("torch.")
    reason = f"rule for CPUs: at most {longest} tokens, heads of {problem.channels}, {dtype}"
    return AttentionChoice(backend="plain" if is_short else REFERENCE, reason=reason)


def _obstacle(name: str, problem: AttentionProblem) -> tuple[str, str]:
    """Return what a back end lacks and how to provide it, without running it; "" if nothing."""
    if name not in {"varlen", "xformers"}:
        return "", ""
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        return "xformers is not installed", f'pip install "{_XFORMERS}", or '
    if problem.device.type != "cuda":
        return f"{name} attention runs on CUDA devices only", "device=cuda, or "
    if name == "varlen" and problem.dtype not in HALF_PRECISION:
        return "varlen attention computes in half precision only", "precision=bfloat16, or "
    if name == "varlen" and torch.cuda.get_device_capability(problem.device) < _FLASH_CAPABILITY:
        return "varlen attention needs a GPU of compute capability 8.0 or more", ""
    return "", ""


def _failure(trial: _Trial, name: str, expected: Sequence[Tensor] = ()) -> str:
    """Run a back end once; return why it failed or how far its results are off; "" if neither."""
    try:
        actual = trial.run(name)
    except _KERNEL_ERRORS as error:
        return first_line(error)
    worst = relative_difference(actual, expected) if expected else 0.0
    return "" if worst <= AGREEMENT[actual[0].dtype] else f"differs from {REFERENCE} by {worst:.1e}"
