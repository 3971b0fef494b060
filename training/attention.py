"""Which attention back end a run uses, and whether its crops are packed: settled once a run.

Back ends agree within rounding, not bit for bit, and a probe by time may choose another one on
another day. So the choice is written into the run folder, and the same run goes on with it.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dinoforge.errors import UsageError
from dinoforge.files import write_json
from dinoforge.models.attention_choice import AttentionProblem, choose_attention
from dinoforge.models.layers import kept_samples
from dinoforge.training.config import TrainingConfig
from dinoforge.training.distributed.ranks import from_rank_0, rank, world_size
from dinoforge.training.precision import product_dtype

__all__ = [
    "AttentionSetting",
    "attention_problem",
    "choose_setting",
    "remember",
    "settle_attention",
]

_log = logging.getLogger(__name__)

_FILE = "attention.json"


@dataclass(frozen=True, kw_only=True)
class AttentionSetting:
    """How a run computes attention."""

    backend: str
    packed: bool
    device: str  # that it was chosen on: "cpu", or the name of the GPU
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        return asdict(self)


def choose_setting(config: TrainingConfig, device: torch.device) -> AttentionSetting:
    """Decide what a new run of the recipe would use on this device.

    Raises
    ------
    UsageError
        If the back end that is asked for cannot run here.
    """
    problem = attention_problem(config, device)
    choice = choose_attention(config.model.attention, problem)
    return AttentionSetting(
        backend=choice.backend,
        packed=problem.packed,
        device=_device_name(device),
        reason=choice.reason,
    )


def settle_attention(
    config: TrainingConfig, device: torch.device, folder: Path
) -> AttentionSetting:
    """Take what the run in ``folder`` began with, or decide, and say so in the log.

    Under ``auto`` rank 0 decides for all ranks: every rank must call it.

    Raises
    ------
    UsageError
        If the back end that is asked for cannot run here.
    """
    if config.model.attention != "auto":
        setting = choose_setting(config, device)
    else:
        own = None
        if rank() == 0:
            own = _remembered(config, device, folder) or choose_setting(config, device)
        agreed = from_rank_0(own)
        assert agreed is not None, "rank 0 always has a choice"
        setting = agreed
    crops = "packed" if setting.packed else "one size after the other"
    _log.info("attention: %s (%s); crops: %s", setting.backend, setting.reason, crops)
    return setting


def remember(setting: AttentionSetting, folder: Path) -> None:
    """Write the setting into the run folder, on rank 0.

    Without its reason, which may hold times: those are in the log and in ``run.json``.
    """
    if rank() > 0:
        return
    facts = setting.as_json()
    del facts["reason"]
    write_json(folder / _FILE, facts)


def attention_problem(config: TrainingConfig, device: torch.device) -> AttentionProblem:
    """Describe the student's attention in one layer: what most of the time goes to."""
    by_default = config.model.packing == "auto" and device.type == "cuda"
    vit = config.model.vit(config.crops.global_size)
    images = max(config.micro_batch(world_size()), 1)
    crops = ((2, config.crops.global_size), (config.crops.num_local, config.crops.local_size))
    shapes = tuple(
        (
            kept_samples(count * images, config.model.drop_path),
            1 + vit.registers + (side // vit.patch_size) ** 2,
        )
        for count, side in crops
    )
    return AttentionProblem(
        shapes=shapes,
        heads=vit.heads,
        channels=vit.width // vit.heads,
        dtype=product_dtype(config, device),
        device=device,
        packed=by_default or config.model.packing == "packed",
    )


def _remembered(
    config: TrainingConfig, device: torch.device, folder: Path
) -> AttentionSetting | None:
    """Read what the run began with; None for a new run, or where that cannot run any more."""
    if not (folder / _FILE).exists():
        return None
    problem = attention_problem(config, device)
    try:
        found = AttentionSetting(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
        choose_attention(found.backend, problem)
    except (OSError, ValueError, TypeError, UsageError) as error:
        _log.warning("the attention that the run began with is not to be had: %s", error)
        return None
    if found.device != _device_name(device):
        _log.warning("the run began on %s: attention is chosen anew", found.device)
        return None
    return replace(found, packed=problem.packed, reason="as the run began")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
