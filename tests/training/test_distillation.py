"""Distillation: the teacher of another training makes the targets, over all patches."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinoforge.cli.train import train_run
from dinoforge.config import Loaded
from dinoforge.errors import UsageError
from dinoforge.models.reading import read_tensors
from dinoforge.steps import export_file, step_name
from dinoforge.training.build import build_method
from dinoforge.training.data.views import micro_batches
from dinoforge.training.distributed.checkpoint import read_whole
from dinoforge.training.distributed.ranks import RankInfo
from dinoforge.training.loop import Trainer
from dinoforge.training.losses.balance import sinkhorn_knopp
from dinoforge.training.losses.cross_entropy import dino_loss, ibot_loss
from dinoforge.training.plan.placement import Placement
from dinoforge.training.plan.sizes import storage_of_run

TEACHER = ("model.width=24", "ibot_head.prototypes=20", "steps=4", "checkpoint.every=2")
CPU = torch.device("cpu")


def run(config):
    return train_run(Loaded(config, {}), change="refuse")


def checkpoint(config, step):
    return Path(config.out) / "checkpoints" / step_name(step)


@pytest.fixture
def teacher(tiny):
    """A finished training of a wider network."""
    config = tiny(*TEACHER, out="teacher")
    run(config)
    return config


@pytest.fixture
def distill(tiny, teacher):
    """Make recipes whose teacher is that network."""

    def make(*changes, frozen=teacher.out, out="student"):
        own = ("method=distillation", "ibot_head.prototypes=20", f"teacher.frozen={frozen}")
        return tiny(*own, *changes, out=out)

    return make


def test_targets_are_those_of_the_frozen_teacher_over_all_patches(distill, tmp_path):
    config = distill("loss.koleo=0")
    trainer = Trainer(config, tmp_path / "probe")
    batch, _ = next(trainer.batches())
    (views,) = micro_batches(config, batch, RankInfo(0, 1, 0, 1), CPU)
    method = build_method(config)
    losses = method(views, *method.targets([views], 0.05))

    def scores(networks, x):
        (tokens,) = networks["backbone"].forward_features_list([x], [None])
        patches = tokens["x_norm_patchtokens"].flatten(0, 1)
        return (networks["dino_head"](tokens["x_norm_clstoken"]), networks["ibot_head"](patches))

    cls, patches = (sinkhorn_knopp(s, 0.05) for s in scores(method.frozen, views.global_crops))
    own_cls, own_patches = scores(method.student, views.global_crops)
    own_local, _ = scores(method.student, views.local_crops)
    per_crop = len(own_patches) // len(own_cls)
    weights = torch.full((len(own_patches),), 1 / per_crop)
    wanted = sum(dino_loss(cls, own_cls, own_local))
    wanted = wanted + ibot_loss(patches, own_patches, weights, len(own_cls))
    torch.testing.assert_close(losses.total, wanted)
    assert per_crop == 16


def test_the_frozen_teacher_stays_and_the_moving_average_is_exported(distill, teacher):
    config = distill()
    run(config)
    trainer = Trainer(config, Path(config.out))
    of_teacher = read_whole(checkpoint(teacher, 4), "method/teacher.")
    assert of_teacher
    for name, tensor in trainer.method.frozen.state_dict().items():
        assert torch.equal(tensor, of_teacher[f"method/teacher.{name}"]), name
    saved = read_whole(checkpoint(config, 6))
    assert not any(name.startswith("method/frozen") for name in saved)
    exported, notes = read_tensors(export_file(Path(config.out), 6))
    for name, tensor in exported.items():
        assert torch.equal(tensor, saved[f"method/teacher.backbone.{name}"]), name
    assert "frozen teacher" in notes["trained_with"]
    assert not torch.equal(
        saved["method/student.backbone.cls_token"], saved["method/teacher.backbone.cls_token"]
    )


def test_a_run_goes_on_with_the_checkpoint_that_it_started_with(distill, teacher, tiny):
    whole = distill(out="whole")
    run(whole)
    cut = distill(out="cut")
    trainer = Trainer(cut, Path(cut.out))
    for batch, waited in trainer.batches():
        trainer.run_step(batch, waited)
        if trainer.step == 3:
            break
    trainer.save()
    trainer.checkpoints.finish()
    longer = replace(teacher, steps=6)
    Path(teacher.out, "config.yaml").unlink()  # its training goes on: another length
    run(longer)
    run(cut)
    one, other = (read_whole(checkpoint(config, 6)) for config in (cut, whole))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    newest = Trainer(distill(out="new"), Path(cut.out).with_name("new")).config.teacher.frozen
    assert newest == str(checkpoint(longer, 6))


def test_a_teacher_that_is_gone_is_reported_when_a_run_resumes(distill, teacher):
    config = distill("steps=2")
    run(config)
    shutil.rmtree(checkpoint(teacher, 4))
    with pytest.raises(UsageError, match="frozen teacher of this run was deleted") as caught:
        Trainer(config, Path(config.out))
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_checkpoint_of_the_teacher_is_not_used(distill, teacher, caplog):
    (file,) = checkpoint(teacher, 4).glob("*.distcp")
    file.write_bytes(file.read_bytes()[:-1])
    config = distill()
    settled = Trainer(config, Path(config.out)).config
    assert settled.teacher.frozen == str(checkpoint(teacher, 2))
    assert "CHECKPOINT DAMAGED" in caplog.text
    with pytest.raises(UsageError, match="no training with an intact checkpoint"):
        build_method(distill(frozen=checkpoint(teacher, 4)))


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        (("teacher.frozen=nowhere",), "no training with an intact checkpoint in nowhere"),
        (("dino_head.prototypes=12",), "`dino_head.prototypes` is 12, that of the teacher 24"),
        (("ibot_head.prototypes=12",), "`ibot_head.prototypes` is 12, that of the teacher 20"),
        (("separate_heads=false",), "`separate_heads` is False"),
        (("model.patch_size=14",), "`model.patch_size` is 14, that of the teacher 7"),
        (("crops.mean=[0, 0, 0]",), "`crops.mean`"),
    ],
)
def test_a_student_that_cannot_be_compared_is_refused(distill, changes, reported):
    with pytest.raises(UsageError, match=reported) as caught:
        build_method(distill(*changes))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        (("teacher.frozen=x",), "`teacher.frozen` is `x` with method=dinov2"),
        (("method=distillation",), "`teacher.frozen` is `` with method=distillation"),
        (
            ("method=distillation", "teacher.frozen=x", "model.architecture=resnet50"),
            "resnet50 has no patch tokens",
        ),
    ],
)
def test_a_recipe_with_half_a_distillation_is_refused(tiny, changes, reported):
    with pytest.raises(UsageError, match=reported):
        tiny(*changes)


def test_a_teacher_without_ibot_needs_a_student_without_it(tiny):
    config = tiny("method=dino", "loss.ibot=0", "loss.koleo=0", "steps=1", out="teacher")
    run(config)
    changes = ("method=distillation", f"teacher.frozen={config.out}")
    with pytest.raises(UsageError, match="the teacher was trained without iBOT"):
        build_method(tiny(*changes))
    build_method(tiny(*changes, "loss.ibot=0"))


def test_a_plan_takes_the_recipe_of_a_teacher_that_is_not_trained_yet(distill, teacher):
    recipe = Path(teacher.out) / "config.yaml"
    planned = distill(frozen=recipe)
    config = distill("steps=3")
    run(config)
    files = checkpoint(config, 3).iterdir()
    counted = sum(file.stat().st_size for file in files if file.name != "manifest.json")
    assert storage_of_run(planned, Placement()).checkpoint_bytes == pytest.approx(counted, rel=0.02)
    with pytest.raises(UsageError, match="no training with an intact checkpoint"):
        build_method(planned)
