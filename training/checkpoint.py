"""Checkpoints: written whole or not at all, verified on load, the newest good one found by looking.

``checkpoints/step-000012500/`` holds ``state.safetensors`` (student, teacher, centers, optimizer)
and ``manifest.json`` (step, sizes, SHA-256). It is written under another name, fsynced, and
renamed; there is no pointer file that could point to nothing.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinoforge.atomic_file import fsync_folder, write_json
from dinoforge.errors import UsageError
from dinoforge.hashing import sha256_file
from training.config import CheckpointConfig
from training.method import Method

__all__ = ["load_latest", "prune", "save", "saved_steps", "step_name"]

_log = logging.getLogger(__name__)

_STATE = "state.safetensors"
_MANIFEST = "manifest.json"


def step_name(step: int) -> str:
    """Folder name of a step: ``step-000012500``."""
    return f"step-{step:09d}"


def save(folder: Path, step: int, method: Method, optimizer: torch.optim.Optimizer) -> Path:
    """Write the checkpoint of ``step``; a kill at any moment leaves the older ones as they are.

    Raises
    ------
    UsageError
        If it cannot be written (disk full, read-only): names the folder.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = folder / step_name(step)
    draft = folder / f".{step_name(step)}.tmp-{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        state = draft / _STATE
        save_file(_tensors(method, optimizer), state)
        with state.open("rb") as file:
            os.fsync(file.fileno())
        manifest = {
            "step": step,
            "files": {_STATE: {"bytes": state.stat().st_size, "sha256": sha256_file(state)}},
        }
        write_json(draft / _MANIFEST, manifest)
        if final.exists():  # damaged: a good one would have been resumed from
            shutil.rmtree(final)
        draft.rename(final)
        fsync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise UsageError(
            what=f"checkpoint not written: {getattr(error, 'strerror', None) or error}",
            where=str(final),
            do="free space there and start again; older checkpoints are as they were",
        ) from error
    return final


def load_latest(folder: Path, method: Method, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint that is whole; returns its step, 0 without any.

    Damaged ones are passed over with a warning that names them and what is wrong.

    Raises
    ------
    UsageError
        If a whole checkpoint is of another architecture: names what differs.
    """
    for draft in folder.glob(".step-*.tmp-*"):
        shutil.rmtree(draft, ignore_errors=True)
    for candidate in [folder / step_name(step) for step in reversed(saved_steps(folder))]:
        fault = _fault(candidate)
        if fault:
            _log.warning("CHECKPOINT DAMAGED, using an older one: %s: %s", candidate, fault)
            continue
        _restore(candidate, method, optimizer)
        return int(json.loads((candidate / _MANIFEST).read_text(encoding="utf-8"))["step"])
    return 0


def prune(folder: Path, newest: int, policy: CheckpointConfig) -> None:
    """Delete checkpoints up to step `newest` that the policy does not keep.

    Later ones are damaged (the run would have gone on from them): they must not count as kept.
    """
    for step in [n for n in saved_steps(folder) if n <= newest][: -policy.keep]:
        if not policy.keep_every or step % policy.keep_every:
            shutil.rmtree(folder / step_name(step))


def saved_steps(folder: Path) -> list[int]:
    """Find the steps that have a folder, whole or damaged, in order."""
    return sorted(int(p.name.removeprefix("step-")) for p in folder.glob(f"step-{'[0-9]' * 9}"))


def _fault(candidate: Path) -> str:
    """Say what is wrong with a checkpoint; "" when sizes and checksums are right."""
    try:
        manifest = json.loads((candidate / _MANIFEST).read_text(encoding="utf-8"))
        for name, facts in manifest["files"].items():
            path = candidate / name
            if path.stat().st_size != facts["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
            if sha256_file(path) != facts["sha256"]:
                return f"{name} has another checksum"
    except (OSError, ValueError, KeyError) as error:
        return f"no readable manifest or file ({error})"
    return ""


def _tensors(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"method/{name}": t.detach() for name, t in method.state_dict().items()}
    for name, parameter in method.student.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value).detach()
    # safetensors refuses shared memory, and a CPU copy frees the device during the write.
    return {name: t.to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def _restore(candidate: Path, method: Method, optimizer: torch.optim.Optimizer) -> None:
    from safetensors.torch import load_file

    tensors = load_file(candidate / _STATE)
    ours = {n.removeprefix("method/"): t for n, t in tensors.items() if n.startswith("method/")}
    _check_architecture(method.state_dict(), ours, candidate)
    method.load_state_dict(ours)
    for name, parameter in method.student.named_parameters():
        found: dict[str, Any] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"optimizer/{key}/{name}")
            if value is not None:
                found[key] = value.to(parameter.device)  # the fused update wants all of them there
        if found:
            optimizer.state[parameter] = found


def _check_architecture(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], candidate: Path
) -> None:
    names = sorted(wanted.keys() ^ found.keys())
    names += [n for n in sorted(wanted.keys() & found.keys()) if wanted[n].shape != found[n].shape]
    if names:
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise UsageError(
            what=f"checkpoint of another architecture: {listed} differ",
            where=str(candidate),
            do="use the recipe that it was made with, or another out=FOLDER",
        )
