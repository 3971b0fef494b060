"""Checkpoints: written by all ranks in the background, complete or absent, found by listing.

``checkpoints/step-000012500/`` holds the state in the format of torch.distributed.checkpoint, which
any number of ranks can read, and ``manifest.json`` (step, sizes, SHA-256). It is written under a
temporary name, fsynced, and renamed; no pointer file can point to a missing folder.
"""

import concurrent.futures
import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from dinoforge.errors import UsageError, first_line
from dinoforge.files import fsync_folder, sha256_file, write_json
from dinoforge.steps import MANIFEST, checkpoints_in, step_name, step_of_name, steps_in
from dinoforge.training.config import CheckpointConfig
from dinoforge.training.distributed.ranks import (
    all_gather_objects,
    from_rank_0,
    on_rank_0,
    rank,
    world_size,
)
from dinoforge.training.methods.method import Method

__all__ = ["Checkpoints", "load_teacher", "newest_intact", "read_whole"]

_log = logging.getLogger(__name__)

_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


def read_whole(checkpoint: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of a checkpoint in one process, however many ranks wrote it.

    Names are ``method/student.NAME``, ``method/teacher.NAME``, ``optimizer/exp_avg/NAME``, ...
    """
    reader = dcp.FileSystemReader(checkpoint)
    state: dict[str, Any] = {
        name: torch.empty(facts.size, dtype=facts.properties.dtype)
        for name, facts in reader.read_metadata().state_dict_metadata.items()
        if isinstance(facts, TensorStorageMetadata) and name.startswith(prefix)
    }
    with _one_process_allowed():
        dcp.load(state, storage_reader=reader, no_dist=True)
    return state


@contextlib.contextmanager
def _one_process_allowed() -> Iterator[None]:
    """Silence torch's warning about a missing process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


class Checkpoints:
    """The checkpoints of a run, in a folder on a file system shared by all ranks.

    Every rank makes one and calls its methods at the same steps.
    """

    def __init__(self, folder: Path, policy: CheckpointConfig) -> None:
        self.folder = folder
        self._policy = policy
        # A group of its own: saves in the background must not mix with exchanges of the steps.
        self._group = dist.new_group(backend="gloo") if world_size() > 1 else None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._running: concurrent.futures.Future[None] | None = None

    def load_latest(self, method: Method, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest intact checkpoint; returns its step, 0 if there is none.

        Damaged ones are skipped with a warning. Raises a `UsageError` that names what differs if
        the checkpoint is of another architecture.
        """
        on_rank_0(self._remove_drafts)
        newest = newest_intact(from_rank_0(checkpoints_in(self.folder)), self._group)
        if newest is None:
            return 0
        _restore(newest, method, optimizer)
        return step_of_name(newest.name) or 0

    def save(
        self,
        step: int,
        method: Method,
        optimizer: torch.optim.Optimizer,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Copy the state and write it in the background, after the previous write.

        `before` is called on rank 0 before the checkpoint appears: it writes what must never be
        missing beside one. Raises a `UsageError` if the previous write failed (disk full).
        """
        self.finish()
        state = {name: _on_cpu(tensor) for name, tensor in _tensors(method, optimizer).items()}
        self._running = self._thread.submit(self._write, step, state, before)

    def finish(self) -> None:
        """Wait until the last save is on disk; raises `UsageError` if it failed."""
        running, self._running = self._running, None
        try:
            if running is not None:
                running.result()
        except UsageError:
            raise
        except (Exception, CheckpointException) as error:
            raise UsageError(
                what=f"checkpoint not written: {_reason(error)}",
                where=str(self.folder),
                do="free space there and start again; older checkpoints are intact",
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
            with _one_process_allowed():
                dcp.save(state, storage_writer=writer, process_group=self._group)
            files = {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for path in draft.iterdir()
                if _writer(path) == rank()
            }
            of_ranks = all_gather_objects(files, self._group)
            if rank() == 0:
                before()
                merged = {name: facts for part in of_ranks for name, facts in part.items()}
                write_json(draft / MANIFEST, {"step": step, "files": merged})
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
        # Later ones are damaged (else the run had resumed from them): they do not count as kept.
        policy = self._policy
        for step in [n for n in steps_in(self.folder) if n <= newest][: -policy.keep]:
            if not policy.keep_every or step % policy.keep_every:
                shutil.rmtree(self.folder / step_name(step))

    def _remove_drafts(self) -> None:
        for draft in self.folder.glob(".step-*.tmp*"):
            shutil.rmtree(draft, ignore_errors=True)


def newest_intact(
    checkpoints: Sequence[Path], group: dist.ProcessGroup | None = None
) -> Path | None:
    """Choose the last intact one of some checkpoints; every rank must call it."""
    for candidate in reversed(checkpoints):
        fault = _fault(candidate, group)
        if not fault:
            return candidate
        if rank() == 0:
            _log.warning("CHECKPOINT DAMAGED, using an older one: %s: %s", candidate, fault)
    return None


def load_teacher(checkpoint: Path, networks: nn.ModuleDict) -> None:
    """Copy the teacher of a checkpoint, or this rank's shards of it; every rank must call it.

    Raises a `UsageError` that names what differs if it is of another architecture.
    """
    prefix, reader = "method/teacher.", dcp.FileSystemReader(checkpoint)
    state = {prefix + name: tensor.detach() for name, tensor in networks.state_dict().items()}
    stored = {
        name: getattr(facts, "size", None)
        for name, facts in reader.read_metadata().state_dict_metadata.items()
        if name.startswith(prefix)
    }
    _check_architecture({name: tensor.shape for name, tensor in state.items()}, stored, checkpoint)
    with _one_process_allowed():
        dcp.load(state, storage_reader=reader)


def _writer(path: Path) -> int:
    """Return the rank that wrote a file: ``__RANK_NUMBER.distcp``; rank 0 wrote the others."""
    return int(path.name.split("_")[2]) if path.suffix == ".distcp" else 0


def _fault(candidate: Path, group: Any) -> str:
    """Describe what is wrong with a checkpoint, "" if nothing; the ranks share the reading."""
    fault = ""
    try:
        manifest = json.loads((candidate / MANIFEST).read_text(encoding="utf-8"))
        for name, facts in sorted(manifest["files"].items())[rank() :: world_size()]:
            path = candidate / name
            if path.stat().st_size != facts["bytes"]:
                fault = f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
            elif sha256_file(path) != facts["sha256"]:
                fault = f"{name} has another checksum"
    except (OSError, ValueError, KeyError) as error:
        fault = f"no readable manifest or file ({first_line(error)})"
    return next(filter(None, all_gather_objects(fault, group)), "")


def _tensors(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the tensors of a checkpoint.

    Not DCP's `get_state_dict`: it also stores the optimizer's groups, and loading those would undo
    what a resume with ``--update`` changed in the recipe; its names differ, too, so that existing
    checkpoints could not be read.
    """
    tensors = {f"method/{name}": t.detach() for name, t in method.saved().items()}
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


def _restore(checkpoint: Path, method: Method, optimizer: torch.optim.Optimizer) -> None:
    reader = dcp.FileSystemReader(checkpoint)
    stored = reader.read_metadata().state_dict_metadata
    shapes = {name: getattr(facts, "size", None) for name, facts in stored.items()}
    _check_architecture(
        {f"method/{name}": tensor.shape for name, tensor in method.saved().items()},
        {name: shape for name, shape in shapes.items() if name.startswith("method/")},
        checkpoint,
    )
    for name, parameter in method.student.named_parameters():
        keys = [key for key in _MOMENTS if f"optimizer/{key}/{name}" in shapes]
        if keys:
            optimizer.state[parameter] = {
                # The fused update requires all of them on the parameter's device.
                key: torch.zeros((), device=parameter.device)
                if key == "step"
                else torch.zeros_like(parameter, memory_format=torch.preserve_format)
                for key in keys
            }
    state: dict[str, Any] = dict(_tensors(method, optimizer))
    with _one_process_allowed():
        dcp.load(state, storage_reader=reader)


def _check_architecture(
    model: Mapping[str, Any], stored: Mapping[str, Any], checkpoint: Path
) -> None:
    names = [n for n in sorted(model.keys() | stored.keys()) if model.get(n) != stored.get(n)]
    if not names:
        return
    differences = []
    for name in names[:3]:
        sides = (("checkpoint", stored), ("model", model))
        shapes = [f"{side} {list(of[name])}" for side, of in sides if name in of]
        only = " only" if len(shapes) == 1 else ""
        differences.append(f"{name.removeprefix('method/')}: {', '.join(shapes)}{only}")
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise UsageError(
        what=f"checkpoint of another architecture: {'; '.join(differences)}{more}",
        where=str(checkpoint),
        do="use the recipe that it was made with, or another out=FOLDER",
    )


def _reason(error: BaseException) -> str:
    """Return the message of the system from what torch wrapped around it."""
    causes: list[BaseException] = [error]
    if isinstance(error, CheckpointException):  # not an Exception: it holds those of the ranks
        causes += [failure[0] for failure in error.failures.values()]
    for cause in causes:
        text = getattr(cause, "strerror", None)
        if text:
            return str(text)
    return f"{type(causes[-1]).__name__}: {causes[-1]}"
