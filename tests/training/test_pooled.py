"""Methods with a backbone that gives one vector per image: statistics, groups, faults, export."""

import pytest
import torch
from optional import optional

from dinoforge.errors import UsageError
from dinoforge.models.pooled.files import load_pooled
from dinoforge.training.build import build_backbone, build_method, build_optimizer
from dinoforge.training.loop import train
from dinoforge.training.plan.placement import Placement
from dinoforge.training.plan.sizes import storage_of_run

DINO = (
    *("method=dino", "loss.ibot=0", "loss.koleo=0", "teacher.balance=centering"),
    *("model.architecture=wrn28_2", "crops.global_size=16", "crops.local_size=8"),
)


def test_a_training_exports_the_teacher_with_statistics_of_its_own(tiny, tmp_path):
    config = tiny(*DINO, "steps=2", "dino_head.normalized=true", "optimizer.name=lars")
    summary = train(config, tmp_path)
    model, metadata = load_pooled(summary.export)
    untrained, _ = load_pooled(tmp_path / "export/step-000000000/model.safetensors")
    assert metadata["image_size"] == "16"
    assert metadata["trained_with"] == "dinoforge DINO"
    assert untrained.bn1.num_batches_tracked == 0
    # Once per step, of the global crops alone: those of the student also count local ones.
    assert model.bn1.num_batches_tracked == 2
    assert not torch.equal(model.bn1.running_mean, untrained.bn1.running_mean)
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    # The plan knows what is stored, buffers too.
    storage = storage_of_run(config, Placement())
    size = sum(f.stat().st_size for f in (tmp_path / "checkpoints/step-000000002").iterdir())
    assert size == pytest.approx(storage.checkpoint_bytes, rel=0.01)
    tensors = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert tensors == storage.export_bytes


def test_neither_biases_nor_norms_of_any_name_are_decayed_or_adapted(tiny):
    config = tiny(*DINO, "model.architecture=resnet50", "optimizer.name=lars")
    method = build_method(config)
    names = {id(p): name for name, p in method.student.named_parameters()}
    free = {
        names[id(parameter)].removeprefix("backbone.")
        for group in build_optimizer(config, method).param_groups
        for parameter in group["params"]
        if not group["trust"]
    }
    assert {"bn1.weight", "layer1.0.bn3.bias", "layer1.0.downsample.1.weight"} <= free
    assert not any("conv" in name or "downsample.0" in name for name in free)
    rates = {group["lr_multiplier"] for group in build_optimizer(config, method).param_groups}
    assert rates == {1.0}, "layer-wise decay is for the blocks of a ViT"


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        (("method=dinov2", "loss.ibot=1"), "`model.architecture` wrn28_2 has no patch tokens"),
        (("model.drop_path=0.1",), "`model.drop_path` needs the blocks of a ViT"),
        (("parallel.compile=true",), "`parallel.compile` needs the blocks of a ViT"),
        (("parallel.accumulate=2",), "`parallel.accumulate` 2 with `model.architecture`"),
        (("model.architecture=resnet51",), "`model.architecture` is 'resnet51'"),
    ],
)
def test_what_such_a_backbone_does_not_support_is_refused(tiny, changes, reported):
    with pytest.raises(UsageError, match=reported) as caught:
        tiny(*DINO, *changes)
    assert len(str(caught.value).splitlines()) == 1


def test_crops_of_a_size_that_a_network_of_timm_does_not_take_are_refused(tiny):
    optional("timm", "timm")
    network = (*DINO, "model.architecture=timm:pit_ti_224", "crops.global_size=224")
    with torch.device("meta"):
        assert build_backbone(tiny(*network, "crops.num_local=0")).width == 256
        with pytest.raises(
            UsageError, match="timm:pit_ti_224 fails on images of 96 x 96"
        ) as caught:
            build_backbone(tiny(*network, "crops.num_local=1", "crops.local_size=96"))
    (line,) = str(caught.value).splitlines()
    assert "- `crops.local_size` - give crops.local_size=224" in line
