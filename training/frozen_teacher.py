"""The frozen teacher of a distillation: the teacher of another training, its heads included."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dinoforge.config import load_config
from dinoforge.errors import Fault, UsageError
from dinoforge.files import sha256_file, write_json
from dinoforge.steps import MANIFEST, checkpoints_in, step_of_name
from dinoforge.training.config import TrainingConfig

__all__ = ["recipe_of_frozen", "remember_frozen", "settle_frozen"]

_FILE = "teacher.json"
_WHERE = "`teacher.frozen`"


def recipe_of_frozen(config: TrainingConfig) -> TrainingConfig:
    """Load the recipe of the frozen teacher: its run's, or ``teacher.frozen`` itself.

    Raises a `UsageError` if there is none, or the student cannot be compared with this teacher.
    """
    path = Path(config.teacher.frozen)
    recipe = path if path.is_file() else _run_of(path) / "config.yaml"
    if not recipe.is_file():
        raise _no_training(path)
    teacher = load_config(TrainingConfig, recipe)
    faults = list(_differences(config, teacher))
    if faults:
        raise UsageError(faults=faults)
    return teacher


def settle_frozen(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """Put a checkpoint in ``teacher.frozen``: the one of the run in `folder`, or the newest intact.

    So a run that resumes has the teacher that it started with, even if the training of this teacher
    went on. Every rank must call it.

    Raises a `UsageError` if there is no checkpoint, or that of this run was deleted or has changed.
    """
    # Here: recipes are checked on machines without torch.
    from dinoforge.training.distributed.checkpoint import newest_intact
    from dinoforge.training.distributed.ranks import from_rank_0, on_rank_0

    given = config.teacher.frozen
    if not given:
        return config
    checkpoint = from_rank_0(on_rank_0(lambda: _remembered(given, folder)))
    if checkpoint is None:
        path = Path(given)
        is_run = _run_of(path) == path
        checkpoint = newest_intact(
            from_rank_0(checkpoints_in(path / "checkpoints") if is_run else [path])
        )
    if checkpoint is None:
        raise _no_training(path)
    return replace(config, teacher=replace(config.teacher, frozen=str(checkpoint)))


def remember_frozen(given: str, checkpoint: str, folder: Path) -> None:
    """Write into the run folder which checkpoint is the frozen teacher; on rank 0."""
    from dinoforge.training.distributed.ranks import rank

    if given and rank() == 0:
        digest = sha256_file(Path(checkpoint) / MANIFEST)
        write_json(folder / _FILE, {"given": given, "checkpoint": checkpoint, "sha256": digest})


def _remembered(given: str, folder: Path) -> Path | None:
    """Return the checkpoint that this run started with; None if it has not, or had another."""
    note = folder / _FILE
    facts = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    if facts.get("given") != given:
        return None
    checkpoint = Path(facts["checkpoint"])
    manifest = checkpoint / MANIFEST
    if not manifest.is_file() or sha256_file(manifest) != facts["sha256"]:
        raise UsageError(
            what="the frozen teacher of this run was deleted or has changed",
            where=str(checkpoint),
            do="put it back, or start another run with out=FOLDER",
        )
    return checkpoint


def _run_of(path: Path) -> Path:
    """Return the run folder of a checkpoint; any other path as it is."""
    return path.parent.parent if step_of_name(path.name) is not None else path


def _no_training(path: Path) -> UsageError:
    return UsageError(
        what=f"no training with an intact checkpoint in {path}",
        where=_WHERE,
        do="give the run folder of a training, or one of its checkpoints",
    )


def _differences(config: TrainingConfig, teacher: TrainingConfig) -> Iterator[Fault]:
    """Find what keeps the outputs of a student from being compared with those of this teacher."""
    if teacher.has_support or not teacher.model.is_vit:
        what = f"a {teacher.model.architecture} by method={teacher.method} cannot be the teacher"
        yield Fault(what, _WHERE, "give a ViT by method=dinov2, dino or distillation")
        return
    if config.loss.ibot and not (teacher.loss.ibot and teacher.method != "dino"):
        what = "the teacher was trained without iBOT, and `loss.ibot` is not 0"
        yield Fault(what, _WHERE, "give loss.ibot=0, or another teacher")
    pairs = {
        "model.patch_size": (config.model.patch_size, teacher.model.patch_size),
        "dino_head.prototypes": (config.dino_head.prototypes, teacher.dino_head.prototypes),
        "crops.mean": (config.crops.mean, teacher.crops.mean),
        "crops.std": (config.crops.std, teacher.crops.std),
    }
    if config.loss.ibot:
        pairs["separate_heads"] = config.separate_heads, teacher.separate_heads
        if config.separate_heads:
            pairs["ibot_head.prototypes"] = (
                config.ibot_head.prototypes,
                teacher.ibot_head.prototypes,
            )
    for key, (own, of_teacher) in pairs.items():
        if own != of_teacher:
            what = f"`{key}` is {own}, that of the teacher {of_teacher}"
            yield Fault(what, "recipe", f"give {key}={of_teacher}")
