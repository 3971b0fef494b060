"""Write the golden values of DINOv3: transformers' own model with random weights.

    python tests/golden/make_dinov3.py  # with torch and transformers 5.24

Weights are multiples of 1/256, stored as float16, under the names that `save_pretrained` writes.
Outputs are float32: the tokens after every block (no norm), those after the last norm, and the
attention of the last block, at 4 x 4 and 3 x 5 patches.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

SIZES = {"square": (32, 32), "wide": (24, 40)}
COMMON = {"patch_size": 8, "image_size": 32, "num_register_tokens": 4}
VARIANTS = {
    "mlp": {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "intermediate_size": 96,
    },
    # as the 7B model: gated, no bias of queries, keys and values
    "gated": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "use_gated_mlp": True,
        "hidden_act": "silu",
        "query_bias": False,
        "value_bias": False,
    },
}


def draw(model: DINOv3ViTModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = 0.2 * torch.randn(parameter.shape, generator=generator)
            if ("norm" in name and name.endswith("weight")) or "lambda1" in name:
                values += 1
            parameter.copy_(torch.round(values * 256) / 256)


def outputs(model: DINOv3ViTModel, height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(height)
    images = torch.round(torch.randn(2, 3, height, width, generator=generator) * 32) / 32
    with torch.no_grad():
        result = model(images, output_hidden_states=True, output_attentions=True)
    blocks = torch.stack(result.hidden_states[1:])
    return {
        "images": images,
        "blocks": blocks,
        "tokens": result.last_hidden_state,
        "attention": result.attentions[-1],
    }


def main() -> None:
    folder = Path(__file__).parent / "data" / "dinov3"
    folder.mkdir(exist_ok=True)
    for seed, (name, changes) in enumerate(VARIANTS.items()):
        config = DINOv3ViTConfig(**COMMON | changes, attn_implementation="eager")
        model = DINOv3ViTModel(config).eval()
        draw(model, seed)
        with tempfile.TemporaryDirectory() as stored:
            model.save_pretrained(stored)
            weights = load_file(Path(stored) / "model.safetensors")
            facts = json.loads((Path(stored) / "config.json").read_text())
        tensors = {f"weights/{key}": value.half() for key, value in weights.items()}
        for size, pixels in SIZES.items():
            tensors |= {f"{size}/{key}": value for key, value in outputs(model, *pixels).items()}
        contiguous = {key: value.contiguous() for key, value in tensors.items()}
        save_file(contiguous, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
