"""Backbones of one vector per image: exact sizes, values of others, statistics, files."""

import pytest
import torch
from optional import optional
from safetensors import safe_open

from dinoforge.errors import UsageError
from dinoforge.models.batch_norm import BatchNorm2d
from dinoforge.models.pooled.building import build_pooled
from dinoforge.models.pooled.files import is_pooled, load_pooled, save_pooled
from dinoforge.models.pooled.heads import open_heads, prediction_layers, projection_layers

PARAMETERS = {"resnet50": 23_508_032, "wrn28_2": 1_468_352}

# The first values that suncet 731547d, src/wide_resnet.py without dropout, gives for `weights_of`
# and `images_of` 32 pixels in float64: in evaluation mode, and in training mode.
WIDE_RESNET = {
    False: [0.0, 0.00915578, 0.0, 0.00033527, 0.0, 0.0],
    True: [0.0, 0.03071687, 0.00331325, 0.18719534, 0.01078705, 0.00028708],
}


def weights_of(state):
    """Draw weights for names in their order; variances are positive."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, tensor in sorted(state.items()):
        x = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.is_floating_point():
            drawn[name] = x.square() + 0.5 if name.endswith("running_var") else 0.1 * x
        else:
            drawn[name] = tensor
    return drawn


def images_of(side):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        network = build_pooled(name)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    outputs = network.forward_features(torch.zeros(2, 3, 64, 64, device="meta"))
    assert outputs["x_norm_clstoken"].shape == (2, network.width)


@pytest.mark.parametrize("training", [False, True])
def test_the_wide_resnet_gives_the_values_of_paws(training):
    network = build_pooled("wrn28_2").double().train(training)
    network.load_state_dict(weights_of(network.state_dict()))
    result = network(images_of(32))[0, :6]
    wanted = torch.tensor(WIDE_RESNET[training], dtype=torch.float64)
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_the_resnet_gives_the_values_of_timm(training):
    timm = optional("timm", "timm")
    network = build_pooled("resnet50").double().train(training)
    other = timm.create_model("resnet50", pretrained=False, num_classes=0).double()
    weights = weights_of(network.state_dict())
    for each in (network, other.train(training)):
        each.load_state_dict(weights)  # the names are equal, too
    image = images_of(64)
    torch.testing.assert_close(network(image), other(image), rtol=1e-6, atol=1e-6)


def test_initial_weights_are_a_function_of_the_seed():
    first, again, other = (build_pooled("wrn28_2") for _ in range(3))
    for network, seed in ((first, 3), (again, 3), (other, 4)):
        network.init_weights(seed)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    bound = first.conv1.weight[0].numel() ** -0.5  # of torch
    assert 0.9 * bound < first.conv1.weight.abs().max() <= bound
    assert first.conv1.bias.abs().max() > 0
    with torch.device("meta"):
        resnet = build_pooled("resnet50")
    resnet = resnet.to_empty(device="cpu")
    resnet.init_weights(0)
    weight = resnet.layer4[0].conv2.weight  # of torchvision: normal, by the fan out
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert resnet.bn1.running_var.eq(1).all()


def test_an_empty_batch_of_crops_has_no_vectors():
    network = build_pooled("wrn28_2").train()
    outputs = network.forward_features_list(
        [torch.randn(2, 3, 8, 8), torch.zeros(0, 3, 8, 8)], [None] * 2
    )
    assert [list(out["x_norm_clstoken"].shape) for out in outputs] == [[2, 128], [0, 128]]


@pytest.fixture(scope="module")
def timm():
    return optional("timm", "timm")


@pytest.mark.parametrize("name", ["test_vit", "resnet18", "xcit_nano_12_p16_224", "test_convnext"])
def test_a_network_of_timm_gives_what_timm_pools(name, timm):
    network = build_pooled(f"timm:{name}")
    network.init_weights(0)
    other = timm.create_model(name, pretrained=False, num_classes=0)
    other.load_state_dict(network.stored(network.state_dict()))
    side = other.pretrained_cfg["input_size"][1] if name == "test_vit" else 64
    image = torch.randn(2, 3, side, side)
    for training in (False, True):
        wanted = other.train(training)(image)
        torch.testing.assert_close(network.train(training)(image), wanted, rtol=0, atol=1e-6)
        assert wanted.shape == (2, network.width)
    # Local crops are smaller.
    assert network(image[:, :, :32, :32]).shape == (2, network.width)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(isinstance(norm, BatchNorm2d) for norm in norms)
    assert network.has_batch_norm == bool(norms) == (name in {"resnet18", "xcit_nano_12_p16_224"})


@pytest.mark.usefixtures("timm")
def test_a_network_that_timm_lacks_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean `resnet18`") as caught:
        build_pooled("timm:resnet_18")
    assert str(caught.value).count(" - ") >= 2


def test_a_file_of_a_network_loads_with_its_metadata(tmp_path):
    network = build_pooled("wrn28_2")
    network.init_weights(0)
    network(torch.randn(2, 3, 8, 8))  # statistics of its own
    path = tmp_path / "a.safetensors"
    save_pooled(path, network, network.state_dict(), {"step": "7"})
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(network.state_dict())
    assert is_pooled(path)
    again, metadata = load_pooled(path)
    assert metadata["architecture"] == "wrn28_2"
    assert metadata["step"] == "7"
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not again.training


def test_a_file_with_other_tensors_is_refused(tmp_path):
    network = build_pooled("wrn28_2")
    tensors = network.state_dict()
    del tensors["conv1.weight"]
    path = tmp_path / "a.safetensors"
    save_pooled(path, network, tensors, {})
    with pytest.raises(UsageError, match=r"1 missing \(conv1.weight\)"):
        load_pooled(path)
    assert not is_pooled(tmp_path / "none.pth")


def test_the_heads_of_a_released_checkpoint_of_paws_open_with_its_backbone(tmp_path, caplog):
    encoder = build_pooled("wrn28_2")
    encoder.init_weights(0)
    encoder.fc = projection_layers(128, 128, 64, normalized=True)
    encoder.pred = prediction_layers(64, normalized=True)
    path = tmp_path / "paws-latest.pth.tar"
    tensors = {f"module.{name}": tensor for name, tensor in encoder.state_dict().items()}
    torch.save({"encoder": tensors, "opt": {"state": {0: torch.zeros(1)}}, "epoch": 1}, path)
    heads = open_heads(path)
    assert list(heads) == ["projection", "prediction"]
    x = torch.randn(3, 128)
    wanted = encoder.eval().pred(encoder.fc(x))
    torch.testing.assert_close(heads["prediction"](heads["projection"](x)), wanted)
    with caplog.at_level("INFO"):
        load_pooled(path)
        assert "left out" not in caplog.text
        # A classifier is no projection.
        others = {n: t for n, t in tensors.items() if ".fc." not in n and ".pred." not in n}
        torch.save({"encoder": others | {"module.fc.weight": torch.zeros(10, 128)}}, path)
        load_pooled(path)
    assert "1 tensors beside the backbone are left out: fc.weight" in caplog.text
    assert not open_heads(path)
    del tensors["module.fc.fc3.weight"]
    torch.save({"encoder": tensors}, path)
    with pytest.raises(UsageError, match=r"missing \(projection.fc3.weight"):
        open_heads(path)
