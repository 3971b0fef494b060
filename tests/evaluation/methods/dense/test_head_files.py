"""Heads on disk: what was written comes back; another backbone is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.dense.depth_head import DepthBins
from dinoforge.evaluation.methods.dense.head_files import (
    HeadNotes,
    apply_head,
    load_head,
    save_head,
)
from dinoforge.evaluation.methods.dense.linear_head import LinearHead, PatchFeatures
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.writing import write_tensors

SEGMENTATION = HeadNotes(
    backbone="0123456789abcdef",
    architecture="vit_small_patch14",
    positions="offset",
    blocks=(8, 9, 10, 11),
    input_size=(336, 448),
    classes=("sky", "road", "tree"),
    protocol={"data": "camvid", "steps": 300, "lr": 0.01},
)


def test_a_segmentation_head_comes_back(tmp_path):
    head = LinearHead(8, 3, seed=1)
    head(torch.randn(2, 3, 3, 8))
    path = tmp_path / "head.safetensors"
    save_head(path, head.eval(), SEGMENTATION)
    loaded, notes = load_head(path, backbone=SEGMENTATION.backbone)
    assert notes == SEGMENTATION
    x = torch.randn(1, 2, 2, 8)
    torch.testing.assert_close(loaded(x), head(x), rtol=0, atol=0)
    again = tmp_path / "again.safetensors"
    save_head(again, loaded, notes)
    assert again.read_bytes() == path.read_bytes()


def test_a_depth_head_comes_back(tmp_path):
    notes = HeadNotes(
        backbone="f" * 64,
        architecture="vit_small_patch14",
        blocks=(2, 5, 8, 11),
        final_norm=False,
        class_token=True,
        input_size=(336, 448),
        bins=DepthBins(max_depth=10, count=16),
    )
    head = LinearHead(12, 16, batch_norm=False)
    save_head(tmp_path / "depth.safetensors", head, notes)
    loaded, read = load_head(tmp_path / "depth.safetensors", backbone="f" * 64)
    assert read == notes
    assert not loaded.has_norm
    assert torch.equal(loaded.weight, head.weight)


def test_a_head_of_another_backbone_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(path, LinearHead(8, 3), SEGMENTATION)
    with pytest.raises(UsageError) as error:
        load_head(path, backbone="fedcba9876543210", architecture="vit_base_patch14")
    assert str(error.value) == (
        "the head was trained on vit_small_patch14 0123456789ab, not on vit_base_patch14 "
        f"fedcba987654 - {path} - give that backbone, or train a head for this one"
    )


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"weight": torch.zeros(2, 2)}, {"dinoforge": "backbone-1"})
    with pytest.raises(UsageError, match="not a dense head of this version of dinoforge"):
        load_head(path, backbone="f")


@pytest.mark.parametrize("class_token", [False, True])
def test_a_head_on_a_backbone_equals_the_head_on_cached_features(class_token):
    config = VitConfig(width=16, depth=4, heads=2, patch_size=4, image_size=16, registers=2)
    model = build_vit(config).eval()
    notes = replace(SEGMENTATION, blocks=(1, 3), final_norm=False, class_token=class_token)
    images = torch.randn(2, 3, 12, 20)
    head = LinearHead(64 if class_token else 32, 3).eval()
    with torch.no_grad():
        outputs = model.get_intermediate_layers(images, (1, 3), norm=False)
        patches = [patches.unflatten(1, (3, 5)).numpy() for patches, _ in outputs]
        tokens = [cls.numpy() for _, cls in outputs] if class_token else []
        expected = head(PatchFeatures(patches, tokens).rows(np.arange(2)))
    result = apply_head(model, head, notes)(images)
    assert result.shape == (2, 3, 3, 5)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
