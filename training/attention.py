"""Attention back end of a run, and whether its crops are packed: chosen once per run.

Back ends agree within rounding, not bit for bit, and a timed probe may choose another one on
another day. So the choice is written into the run folder, and a resumed run keeps it.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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


def choose_setting(config: TrainingConfig, device: torch.device) -> AttentionSetting:
    """Choose what a new run would use on this device; raises if it cannot run here."""
    if not config.model.is_vit:
        reason = f"{config.model.architecture} computes its own"
        return AttentionSetting(
            backend="none", packed=False, device=_device_name(device), reason=reason
        )
    problem = attention_problem(config, device)
    choice = choose_attention(config.model.attention, problem)
    name = _device_name(device)
    return AttentionSetting(
        backend=choice.backend, packed=problem.packed, device=name, reason=choice.reason
    )


def settle_attention(
    config: TrainingConfig, device: torch.device, folder: Path
) -> AttentionSetting:
    """Return the setting of the run in ``folder``, or choose one, and log it.

    Under ``auto`` rank 0 chooses for all ranks: every rank must call this. Raises a `UsageError` if
    the requested back end cannot run here.
    """
    setting = None
    if config.model.attention != "auto":
        setting = choose_setting(config, device)
    else:
        if rank() == 0:
            setting = _remembered(config, device, folder) or choose_setting(config, device)
        setting = from_rank_0(setting)
    assert setting is not None, "rank 0 always has a setting"
    crops = "packed" if setting.packed else "one size after the other"
    _log.info("attention: %s (%s); crops: %s", setting.backend, setting.reason, crops)
    return setting


def remember(setting: AttentionSetting, folder: Path) -> None:
    """Write the setting into the run folder, on rank 0.

    Without its reason, which may hold times: the log and ``run.json`` have it.
    """
    if rank() == 0:
        facts = asdict(setting)
        del facts["reason"]
        write_json(folder / _FILE, facts)


def attention_problem(config: TrainingConfig, device: torch.device) -> AttentionProblem:
    """Describe the student's attention in one layer, which takes most of the time."""
    packing = config.model.packing
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
        packed=packing == "packed" or (packing == "auto" and device.type == "cuda"),
    )


def _remembered(
    config: TrainingConfig, device: torch.device, folder: Path
) -> AttentionSetting | None:
    """Read the setting of the run; None if it has none, or one that cannot run here."""
    if not (folder / _FILE).exists() or not config.model.is_vit:
        return None
    problem = attention_problem(config, device)
    try:
        setting = AttentionSetting(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
        choose_attention(setting.backend, problem)
    except (OSError, ValueError, TypeError, UsageError) as error:
        _log.warning("the attention back end of this run is unavailable: %s", error)
        return None
    if setting.device != _device_name(device):
        _log.warning("the run started on %s: choosing attention again", setting.device)
        return None
    return replace(setting, packed=problem.packed, reason="from this run's first start")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
