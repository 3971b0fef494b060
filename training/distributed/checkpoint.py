"""Checkpoints: written by all ranks in the background, whole or not at all, found by looking.

``checkpoints/step-000012500/`` holds the state in the format of torch.distributed.checkpoint, which
any number of ranks can read, and ``manifest.json`` (step, sizes, SHA-256). It is written under
another name, fsynced, and renamed; there is no pointer file that could point to nothing.
"""

import concurrent.futures
import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from dinoforge.errors import UsageError
from dinoforge.exports import step_name, steps_in
from dinoforge.files import fsync_folder, sha256_file, write_json
from dinoforge.training.config import CheckpointConfig
from dinoforge.training.distributed.ranks import (
    all_gather_objects,
    from_rank_0,
    on_rank_0,
    rank,
    world_size,
)
from dinoforge.training.method import Method

__all__ = ["Checkpoints", "read_whole"]

_log = logging.getLogger(__name__)


_MANIFEST = "manifest.json"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def read_whole(checkpoint: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint in one process, whatever number of ranks wrote it.

    Names are ``method/student.NAME``, ``method/teacher.NAME``, ``optimizer/exp_avg/NAME``, ...
    """
    reader = dcp.FileSystemReader(checkpoint)
    state: dict[str, Any] = {
        name: torch.empty(facts.size, dtype=facts.properties.dtype)
        for name, facts in reader.read_metadata().state_dict_metadata.items()
        if isinstance(facts, TensorStorageMetadata)
    }
    with _alone_is_fine():
        dcp.load(state, storage_reader=reader, no_dist=True)
    return state


@contextlib.contextmanager
def _alone_is_fine() -> Iterator[None]:
    """Keep torch from warning that there is no process group: one process is no mistake here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


class Checkpoints:
    """The checkpoints of a run; every rank makes one and calls its methods at the same steps.

    Parameters
    ----------
    folder : Path
        On a file system that all ranks see.
    policy : CheckpointConfig
        What is kept.
    """

    def __init__(self, folder: Path, policy: CheckpointConfig) -> None:
        self.folder = folder
        self._policy = policy
        # The exchange between ranks of a save must not mix with that of the steps meanwhile.
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._running: concurrent.futures.Future[None] | None = None

    def load_latest(self, method: Method, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest checkpoint that is whole; returns its step, 0 without any.

        Damaged ones are passed over with a warning that names them and what is wrong.

        Raises
        ------
        UsageError
            If a whole checkpoint is of another architecture: names what differs.
        """
        on_rank_0(self._sweep)
        for step in reversed(from_rank_0(steps_in(self.folder))):
            candidate = self.folder / step_name(step)
            fault = _fault(candidate, self._group)
            if fault:
                if rank() == 0:
                    _log.warning("CHECKPOINT DAMAGED, using an older one: %s: %s", candidate, fault)
                continue
            _restore(candidate, method, optimizer)
            return step
        return 0

    def save(
        self,
        step: int,
        method: Method,
        optimizer: torch.optim.Optimizer,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Copy the state and write it in the background; waits for the write before this one.

        Parameters
        ----------
        step : int
        method, optimizer
            What is saved; may change as soon as this returns.
        before : callable
            Run on rank 0 in the background before the checkpoint appears: what must never be
            missing beside it.

        Raises
        ------
        UsageError
            If the write before this one failed (disk full, read-only): names the folder.
        """
        self.finish()
        state = {name: _on_cpu(tensor) for name, tensor in _tensors(method, optimizer).items()}
        self._running = self._thread.submit(self._write, step, state, before)

    def finish(self) -> None:
        """Wait until what was saved is on disk.

        Raises
        ------
        UsageError
            If it could not be written: names the folder.
        """
        running, self._running = self._running, None
        if running is None:
            return
        try:
            running.result()
        except UsageError:
            raise
        except (Exception, CheckpointException) as error:
            raise UsageError(
                what=f"checkpoint not written: {_reason(error)}",
                where=str(self.folder),
                do="free space there and start again; older checkpoints are as they were",
            ) from error

    def _write(self, step: int, state: dict[str, Any], before: Callable[[], object]) -> None:
        final, draft = self.folder / step_name(step), self.folder / f".{step_name(step)}.tmp"
        try:
            if rank() == 0:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
            if self._group is not None:
                dist.barrier(self._group)
            writer = dcp.FileSystemWriter(draft, single_file_per_rank=True, sync_files=True)
            with _alone_is_fine():
                dcp.save(state, storage_writer=writer, process_group=self._group)
            files = _facts_of(path for path in draft.iterdir() if _is_mine(path))
            everything = all_gather_objects(files, self._group)
            if rank() == 0:
                before()
                merged = {name: facts for part in everything for name, facts in part.items()}
                write_json(draft / _MANIFEST, {"step": step, "files": merged})
                if final.exists():  # damaged: a good one would have been resumed from
                    shutil.rmtree(final)
                draft.rename(final)
                fsync_folder(self.folder)
                self._prune(step)
        except BaseException:
            if rank() == 0:
                shutil.rmtree(draft, ignore_errors=True)
            raise

    def _prune(self, newest: int) -> None:
        """Delete checkpoints up to step `newest` that the policy does not keep.

        Later ones are damaged (the run would have gone on from them): they must not count as kept.
        """
        policy = self._policy
        for step in [n for n in steps_in(self.folder) if n <= newest][: -policy.keep]:
            if not policy.keep_every or step % policy.keep_every:
                shutil.rmtree(self.folder / step_name(step))

    def _sweep(self) -> None:
        for draft in self.folder.glob(".step-*.tmp*"):
            shutil.rmtree(draft, ignore_errors=True)


def _is_mine(path: Path) -> bool:
    """Tell whether this rank describes a file: data by the rank in its name, the rest by rank 0."""
    if path.suffix == ".distcp":  # __RANK_NUMBER.distcp
        return int(path.name.split("_")[2]) == rank()
    return rank() == 0


def _facts_of(paths: Any) -> dict[str, dict[str, Any]]:
    return {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in paths}


def _fault(candidate: Path, group: Any) -> str:
    """Say what is wrong with a checkpoint; "" when sizes and checksums are right.

    The ranks share the reading; all of them get the same answer.
    """
    found = ""
    try:
        manifest = json.loads((candidate / _MANIFEST).read_text(encoding="utf-8"))
        for name, facts in sorted(manifest["files"].items())[rank() :: world_size()]:
            path = candidate / name
            if path.stat().st_size != facts["bytes"]:
                found = f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
            elif sha256_file(path) != facts["sha256"]:
                found = f"{name} has another checksum"
    except (OSError, ValueError, KeyError) as error:
        found = f"no readable manifest or file ({error})"
    return next(filter(None, all_gather_objects(found, group)), "")


def _tensors(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"method/{name}": t.detach() for name, t in method.state_dict().items()}
    for name, parameter in method.student.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value).detach()
    return tensors


def _on_cpu(tensor: Tensor) -> Tensor:
    """Copy a tensor, or this rank's shard of it, so that training may go on."""
    if not isinstance(tensor, DTensor):
        return tensor.to("cpu", copy=True).contiguous()
    return DTensor.from_local(
        tensor.to_local().to("cpu", copy=True),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def _restore(candidate: Path, method: Method, optimizer: torch.optim.Optimizer) -> None:
    reader = dcp.FileSystemReader(candidate)
    stored = reader.read_metadata().state_dict_metadata
    shapes = {name: getattr(facts, "size", None) for name, facts in stored.items()}
    ours = {f"method/{name}": t.shape for name, t in method.state_dict().items()}
    _check_architecture(
        ours, {n: s for n, s in shapes.items() if n.startswith("method/")}, candidate
    )
    for name, parameter in method.student.named_parameters():
        moments = {key for key in _MOMENTS if f"optimizer/{key}/{name}" in shapes}
        if moments:
            optimizer.state[parameter] = {
                # The fused update wants all of them on the parameter's device.
                key: torch.zeros((), device=parameter.device)
                if key == "step"
                else torch.zeros_like(parameter, memory_format=torch.preserve_format)
                for key in _MOMENTS
            }
    state: dict[str, Any] = dict(_tensors(method, optimizer))
    with _alone_is_fine():
        dcp.load(state, storage_reader=reader)


def _check_architecture(
    wanted: Mapping[str, Any], found: Mapping[str, Any], candidate: Path
) -> None:
    names = [n for n in sorted(wanted.keys() | found.keys()) if wanted.get(n) != found.get(n)]
    if names:
        listed = ", ".join(_difference(name, wanted, found) for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UsageError(
            what=f"checkpoint of another architecture: {listed}{more}",
            where=str(candidate),
            do="use the recipe that it was made with, or another out=FOLDER",
        )


def _difference(name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    short = name.removeprefix("method/")
    there, here = (shapes.get(name) for shapes in (found, wanted))
    if there is None or here is None:
        return f"{short} {list(there or here or ())} {'here' if there is None else 'there'} alone"
    return f"{short} {list(there)} there and {list(here)} here"


def _reason(error: BaseException) -> str:
    """Find the system's own words inside what torch wrapped around them."""
    causes: list[BaseException] = [error]
    if isinstance(error, CheckpointException):  # not an Exception: it holds those of the ranks
        causes += [failure[0] for failure in error.failures.values()]
    for cause in causes:
        text = getattr(cause, "strerror", None)
        if text:
            return str(text)
    return f"{type(causes[-1]).__name__}: {causes[-1]}"
