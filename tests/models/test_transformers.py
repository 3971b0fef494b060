"""The ViTs of transformers, live: the same tokens from the files that it saves."""

import pytest
import torch
from optional import optional

from dinoforge.models.huggingface import load_folder
from dinoforge.models.weights import load_backbone

transformers = optional("transformers", "hf")

SMALL = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "patch_size": 8,
    "image_size": 48,
}
MODELS = {
    "dinov3": ("DINOv3ViT", {"intermediate_size": 128, "num_register_tokens": 4}),
    "dinov3_gated": (
        "DINOv3ViT",
        {"intermediate_size": 160, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "dinov2": ("Dinov2", {}),
    "dinov2_gated": ("Dinov2", {"use_swiglu_ffn": True}),
    "dinov2_registers": ("Dinov2WithRegisters", {}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(48, 48), (40, 72)], ids=str)
def test_the_files_of_transformers_give_its_tokens(name, size, tmp_path):
    kind, changes = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**SMALL | changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected = model(images).last_hidden_state
    file, folder = load_backbone(tmp_path / "model.safetensors", heads=4), load_folder(tmp_path)
    assert file[1].positions == folder[1].positions
    for ready, _, _ in (file, folder):
        with torch.inference_mode():
            actual = ready.norm(ready.forward_features(images)["x_prenorm"])
        torch.testing.assert_close(actual, expected, rtol=0, atol=5e-5)
