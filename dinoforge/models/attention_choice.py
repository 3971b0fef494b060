"""Which attention back end runs: the one asked for, or under ``auto`` the best on this device.

On a GPU ``auto`` tries every back end on the shapes of the run, forward and backward, and takes
the fastest that agrees with the reference. On a CPU a rule decides, so that the same recipe gives
the same bits on every start.
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

from dinoforge.errors import Fault, UsageError
from dinoforge.models.attention import BACKENDS, HALF_PRECISION, attend
from dinoforge.models.packing import longest_sequence, token_counts

__all__ = [
    "AGREEMENT",
    "AttentionChoice",
    "AttentionProblem",
    "choose_attention",
    "probe",
    "relative_difference",
]

REFERENCE = "sdpa"

# Largest difference between two back ends, as a share of the largest value of the output or of a
# gradient: some ten times the rounding of the dtype, because sums over tokens run in other orders.
AGREEMENT: Mapping[torch.dtype, float] = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}

# `plain` is left out on GPUs: it keeps every score, [B, H, N, N], for the backward pass.
_GPU_CANDIDATES = (REFERENCE, "varlen", "xformers")
# Another back end than the reference has to be this much faster: below, the next start of the
# same run could as well measure the opposite.
_LEAST_GAIN = 1.05

_FLASH_CAPABILITY = (8, 0)  # of the GPU; varlen runs on flash attention alone
_XFORMERS = "xformers>=0.0.35"  # the first that does not bring a torch of its own

_GIVE_UP = "model.attention=auto"

# Runs that are queued before the device is waited for, as in training; rounds interleave.
_RUNS, _ROUNDS = 4, 5
# What a kernel says when it cannot run: not built, wrong shape or dtype, broken package, memory.
_REFUSALS = (ImportError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class AttentionProblem:
    """What attention has to do at each layer of a run."""

    shapes: tuple[tuple[int, int], ...]  # (B, N) of each crop size
    heads: int
    channels: int  # of a head
    dtype: torch.dtype  # of queries, keys and values
    device: torch.device
    packed: bool = True  # all crop sizes in one call


@dataclass(frozen=True, kw_only=True)
class AttentionChoice:
    """A back end, and why it was chosen."""

    backend: str
    reason: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)  # forward + backward, a layer
    refused: Mapping[str, str] = field(default_factory=dict)  # back end -> why it cannot run here


def choose_attention(name: str, problem: AttentionProblem) -> AttentionChoice:
    """Choose the back end of a run.

    Parameters
    ----------
    name : str
        ``auto``, or one of `BACKENDS`.
    problem : AttentionProblem
        Shapes, dtype and device of the run.

    Raises
    ------
    UsageError
        If the one that is asked for is unknown, or needs a package, a precision or a device that
        is not there.
    """
    if name == "auto":
        if problem.device.type == "cuda":
            return probe(problem, _GPU_CANDIDATES)
        return _rule_for_cpus(problem)
    if name not in BACKENDS:
        raise UsageError(
            what=f"unknown attention back end `{name}`",
            where="model.attention",
            do=f"choose one of auto, {', '.join(BACKENDS)}",
        )
    obstacle = _obstacle(name, problem)
    if obstacle is None and problem.device.type == "cuda":
        why = _failure(_Trial(problem), name)
        where = f"model.attention={name}"
        if why:
            obstacle = Fault(f"{name} attention does not run here: {why}", where, _GIVE_UP)
    if obstacle is not None:
        raise UsageError(faults=[obstacle])
    return AttentionChoice(backend=name, reason="as the recipe says")


def probe(problem: AttentionProblem, candidates: Sequence[str]) -> AttentionChoice:
    """Run back ends on a problem, and choose the fastest that agrees with `sdpa`.

    Takes a fraction of a second on a GPU. Draws from a generator of its own.

    Parameters
    ----------
    problem : AttentionProblem
        What they have to do.
    candidates : sequence of str
        Back ends, the reference first.
    """
    assert candidates[0] == REFERENCE, "the others are compared with the reference"
    trial = _Trial(problem)
    wanted = trial.run(REFERENCE)
    refused: dict[str, str] = {}
    for name in candidates:
        fault = _obstacle(name, problem)
        why = fault.what if fault else _failure(trial, name, wanted)
        if why:
            refused[name] = why
    milliseconds = trial.milliseconds([name for name in candidates if name not in refused])
    best = min(milliseconds, key=milliseconds.__getitem__)
    if milliseconds[REFERENCE] < _LEAST_GAIN * milliseconds[best]:
        best = REFERENCE
    times = ", ".join(f"{name} {value:.2f} ms" for name, value in milliseconds.items())
    missing = "".join(f"; not {name} ({why})" for name, why in refused.items())
    return AttentionChoice(
        backend=best,
        reason=f"a layer's attention takes {times}{missing}",
        milliseconds=milliseconds,
        refused=refused,
    )


def relative_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return the largest difference as a share of the largest wanted value, over all tensors."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
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
        """Go forward and backward; returns outputs and gradients."""
        # A caller may be in no_grad or under autocast: neither is part of the problem.
        with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            outputs = [
                attend(qkv, shapes, name) for qkv, shapes in zip(self.qkv, self.groups, strict=True)
            ]
            gradients = torch.autograd.grad(outputs, self.qkv, self.gradients)
        return [*(out.detach() for out in outputs), *gradients]

    def milliseconds(self, names: Sequence[str]) -> dict[str, float]:
        """Return the median time of a run by each back end."""
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(_ROUNDS):
            for name in names:
                self._wait()
                started = time.perf_counter()
                for _ in range(_RUNS):
                    self.run(name)
                self._wait()
                times[name].append(1000 * (time.perf_counter() - started) / _RUNS)
        return {name: statistics.median(values) for name, values in times.items()}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _rule_for_cpus(problem: AttentionProblem) -> AttentionChoice:
    """Take `plain` for short sequences.

    Measured (docs/decisions/0008): under bfloat16 it is faster well beyond 64 tokens, but from
    there its kept scores outgrow the tokens; in float32 only up to 32 tokens of narrow heads.
    """
    longest = longest_sequence(problem.shapes)
    half = problem.dtype == torch.bfloat16
    is_short = longest <= 64 if half else longest <= 32 and problem.channels <= 32
    name = "plain" if is_short else REFERENCE
    dtype = str(problem.dtype).removeprefix("torch.")
    reason = f"rule for CPUs: {longest} tokens at most, heads of {problem.channels}, {dtype}"
    return AttentionChoice(backend=name, reason=reason)


def _obstacle(name: str, problem: AttentionProblem) -> Fault | None:
    """Say what is missing for a back end, without running it."""
    if name not in {"varlen", "xformers"}:
        return None
    what, do = "", ""
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        what, do = "xformers is not installed", f'pip install "{_XFORMERS}", or '
    elif problem.device.type != "cuda":
        what, do = f"{name} attention runs on CUDA devices only", "device=cuda, or "
    elif name == "varlen" and problem.dtype not in HALF_PRECISION:
        what, do = "varlen attention computes in half precision only", "precision=bfloat16, or "
    elif name == "varlen" and torch.cuda.get_device_capability(problem.device) < _FLASH_CAPABILITY:
        what = "varlen attention needs a GPU of compute capability 8.0 or more"
    return Fault(what, f"model.attention={name}", do + _GIVE_UP) if what else None


def _failure(trial: _Trial, name: str, wanted: Sequence[Tensor] = ()) -> str:
    """Run a back end once; say why it cannot, or how far it is from what is wanted."""
    try:
        found = trial.run(name)
    except _REFUSALS as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    worst = relative_difference(found, wanted) if wanted else 0.0
    if worst <= AGREEMENT[found[0].dtype]:
        return ""
    return f"differs from {REFERENCE} by {worst:.1e}"
