"""The transformer: sizes that are refused, attention for pictures, initial weights, positions."""

import pytest
import torch

from dinoforge.config.ranges import find_faults
from dinoforge.errors import UsageError
from dinoforge.models.config import VitConfig
from dinoforge.models.position import interpolate_positions, resampling_matrix
from dinoforge.models.vit import build_vit

TINY = {"width": 32, "depth": 2, "heads": 2, "patch_size": 7, "image_size": 28}


def faults(**changes):
    return [str(fault) for fault in find_faults(VitConfig(**(TINY | changes)), "model")]


def test_a_picture_that_is_no_whole_number_of_patches_is_refused_with_its_size():
    model = build_vit(VitConfig(**TINY))
    with pytest.raises(UsageError, match="30 x 28 pixels is not a whole number of patches"):
        model(torch.zeros(1, 3, 30, 28))


def test_attention_of_the_last_block_is_a_distribution_over_all_tokens():
    model = build_vit(VitConfig(**TINY, registers=4))
    weights = model.last_attention(torch.randn(2, 3, 28, 42))
    assert weights.shape == (2, 2, 1 + 4 + 24, 1 + 4 + 24)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, 29))


@pytest.mark.parametrize("registers", [0, 4])
def test_the_last_block_gives_keys_attention_and_the_usual_outputs(registers):
    model = build_vit(VitConfig(**TINY, registers=registers)).eval()
    images = torch.randn(2, 3, 28, 42)
    inputs = []
    hook = model.blocks[-1].attn.qkv.register_forward_hook(
        lambda _, __, qkv: inputs.append(qkv.unflatten(0, (2, -1)))
    )
    outputs = model.forward_features(images)
    hook.remove()
    details = model.last_block(images)
    for name, tensor in outputs.items():
        assert torch.equal(details[name], tensor), name
    # Columns of the projection: queries, keys, values of all heads.
    assert details["keys"].shape == (2, 24, 32)
    torch.testing.assert_close(details["keys"], inputs[0][:, 1 + registers :, 32:64])
    attention = model.last_attention(images)[:, :, 0, 1 + registers :]
    torch.testing.assert_close(details["attention"], attention)


def test_masked_pixels_do_not_reach_the_features():
    model = build_vit(VitConfig(**TINY)).eval()
    images = torch.randn(1, 3, 28, 28)
    masks = torch.zeros(1, 16, dtype=torch.bool)
    masks[0, 5] = True  # row 1, column 1
    changed = images.clone()
    changed[..., 7:14, 7:14] += 1
    first, second = (model.forward_features(x, masks)["x_prenorm"] for x in (images, changed))
    assert torch.equal(first, second)
    assert not torch.equal(model(images), model(changed))


def test_initial_weights_are_a_function_of_seed_and_name():
    shallow, deep = (build_vit(VitConfig(**TINY | {"depth": n}), seed=3) for n in (2, 4))
    other = build_vit(VitConfig(**TINY), seed=4).state_dict()
    for name, tensor in shallow.state_dict().items():
        assert torch.equal(tensor, deep.state_dict()[name]), name
    weight = "blocks.0.attn.qkv.weight"
    assert not torch.equal(shallow.state_dict()[weight], other[weight])
    assert not torch.equal(deep.blocks[0].attn.qkv.weight, deep.blocks[1].attn.qkv.weight)


def test_the_published_scheme_of_initial_weights():
    model = build_vit(VitConfig(**TINY | {"width": 384, "heads": 6}, registers=4))
    assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.cls_token.abs().max() < 1e-5
    assert model.register_tokens.abs().max() < 1e-5
    assert not model.mask_token.any()
    assert torch.all(model.blocks[0].ls1.gamma == 1e-5)


def test_narrow_nets_start_wider_with_xavier():
    model = build_vit(VitConfig(**TINY, init="xavier"))
    bound = (6 / (32 + 128)) ** 0.5
    assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_sizes_that_do_not_divide_are_refused_with_ones_that_do():
    assert faults() == []
    assert "is not a multiple of 4 x 16 heads" in faults(heads=16, positions="rope")[0]
    assert faults(heads=3) == [
        "`model.width` 32 is not a multiple of `model.heads` 3 - recipe - model.width=33"
    ]
    assert "model.image_size=28" in faults(image_size=30)[0]
    assert ["`model.depth` is 0" in fault for fault in faults(depth=0)] == [True]


@pytest.mark.parametrize(
    ("width", "ratio", "hidden"), [(1536, 4, 4096), (1024, 4, 2736), (40, 4, 112)]
)
def test_swiglu_is_two_thirds_as_wide_rounded_up_to_eight(width, ratio, hidden):
    assert VitConfig(width=width, ffn="swiglu", ffn_ratio=ratio).ffn_width == hidden


@pytest.mark.parametrize("mode", ["offset", "offset_antialias", "size_antialias", "size"])
def test_every_row_of_a_resampling_sums_to_one(mode):
    for size in (1, 3, 16, 37, 60):
        weights = resampling_matrix(
            37, size, offset=0.1 * mode.startswith("offset"), antialias="antialias" in mode
        )
        assert weights.shape == (size, 37)
        assert weights.sum(axis=1) == pytest.approx([1] * size)


def test_positions_of_the_native_grid_are_untouched_and_the_class_token_always():
    positions = torch.randn(1, 1 + 16, 8)
    assert interpolate_positions(positions, 4, 4, "offset") is positions
    resampled = interpolate_positions(positions, 2, 8, "offset")  # as many, but not square
    assert resampled.shape == (1, 17, 8)
    assert torch.equal(resampled[:, 0], positions[:, 0])
    assert not torch.equal(resampled[:, 1:], positions[:, 1:])
