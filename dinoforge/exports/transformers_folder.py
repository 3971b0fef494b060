"""A folder that transformers opens: Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinoforge.exports.comparison import Tokens
from dinoforge.exports.source import Source
from dinoforge.files import write_json
from dinoforge.models.config import PositionMode, VitConfig
from dinoforge.models.writing import write_tensors
from dinoforge.packages import import_extra

__all__ = [
    "find_transformers_obstacles",
    "load_transformers",
    "transformers_positions",
    "write_transformers",
]

# In order; names that are not listed stay. `blocks.N.` becomes a prefix.
_DINOV2 = (
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.w12\.", ".mlp.weights_in."),
    (r"\.mlp\.w3\.", ".mlp.weights_out."),
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
)
_DINOV3 = (
    (r"^blocks\.", "layer."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.([qkv])\w+\.", r".attention.\1_proj."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.fc1\.", ".mlp.up_proj."),
    (r"\.mlp\.(fc2|w3)\.", ".mlp.down_proj."),
    (r"\.mlp\.w1\.", ".mlp.gate_proj."),
    (r"\.mlp\.w2\.", ".mlp.up_proj."),
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
)
_LARGEST_RATIO = 16  # of the feed-forward layer, to search
_LARGEST_SIDE = 224  # pixels, of prepared images


def transformers_positions(config: VitConfig) -> PositionMode:
    """Return how the class of this backbone resamples positions."""
    if config.positions == "rope":
        return "rope"
    return "size_antialias" if config.registers else "size"


def find_transformers_obstacles(config: VitConfig) -> Iterator[str]:
    """Name what the class of this backbone does not support."""
    if config.positions != "rope" and _ratio(config) is None:
        kind = "SwiGLU" if config.ffn == "swiglu" else "a feed-forward layer"
        yield f"{kind} of hidden width {config.ffn_width} (no integer `mlp_ratio` gives it)"


def _ratio(config: VitConfig) -> int | None:
    """Return the whole ratio of widths with which transformers builds this feed-forward layer."""
    for ratio in range(1, _LARGEST_RATIO + 1):
        same = VitConfig(width=config.width, ffn=config.ffn, ffn_ratio=ratio)
        if same.ffn_width == config.ffn_width:
            return ratio
    return None


def write_transformers(source: Source, folder: Path) -> None:
    """Write ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``.

    Where these classes always have a LayerScale or biases, ones and zeros are written.
    """
    config = source.config
    has_rope = config.positions == "rope"
    write_json(folder / "config.json", _rope_settings(config) if has_rope else _settings(config))
    side = min(config.image_size, _LARGEST_SIDE) // config.patch_size * config.patch_size
    side = max(side, config.patch_size)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(side * 256 / 224)},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(source.mean),
        "image_std": list(source.std),
    }
    write_json(folder / "preprocessor_config.json", processor)
    tensors = _completed(source.backbone.model.state_dict(), config)
    ready = {}
    for released, tensor in tensors.items():
        name = released
        for pattern, replacement in _DINOV3 if has_rope else _DINOV2:
            name = re.sub(pattern, replacement, name)
        ready[name] = tensor
    write_tensors(folder / "model.safetensors", ready, source.facts | {"format": "pt"})


def _common_settings(config: VitConfig) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "num_channels": 3,
        "layer_norm_eps": config.norm_eps,
        "layerscale_value": config.layer_scale or 1.0,
    }


def _settings(config: VitConfig) -> dict[str, Any]:
    name = "Dinov2WithRegistersModel" if config.registers else "Dinov2Model"
    registers = {"num_register_tokens": config.registers} if config.registers else {}
    return {
        **_common_settings(config),
        **registers,
        "architectures": [name],
        "model_type": "dinov2_with_registers" if config.registers else "dinov2",
        "hidden_act": "gelu",
        "mlp_ratio": _ratio(config),
        "qkv_bias": True,
        "use_swiglu_ffn": config.ffn == "swiglu",
    }


def _rope_settings(config: VitConfig) -> dict[str, Any]:
    gated = config.ffn == "swiglu"
    biases = ("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias")
    return {
        **_common_settings(config),
        **dict.fromkeys(biases, True),
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "num_register_tokens": config.registers,
        "hidden_act": "silu" if gated else "gelu",
        "intermediate_size": config.ffn_width,
        "use_gated_mlp": gated,
        "rope_theta": 100.0,
    }


def _completed(released: dict[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """Add what these classes always have, and split joined layers."""
    tensors = dict(released)
    for name in [n for n in released if n.startswith("blocks.") and n.endswith(".weight")]:
        bias = f"{name.removesuffix('weight')}bias"
        tensors.setdefault(bias, tensors[name].new_zeros(len(tensors[name])))
    if not config.layer_scale:
        names = [f"blocks.{at}.ls{i}.gamma" for at in range(config.depth) for i in (1, 2)]
        tensors |= {name: torch.ones(config.width) for name in names}
    _split(tensors, ".attn.qkv.", (".attn.query.", ".attn.key.", ".attn.value."))
    if config.positions == "rope":
        _split(tensors, ".mlp.w12.", (".mlp.w1.", ".mlp.w2."))
        tensors["mask_token"] = tensors["mask_token"][None]
        tensors.setdefault("register_tokens", torch.zeros(1, 0, config.width))
    return tensors


def _split(tensors: dict[str, Tensor], joined: str, layers: tuple[str, ...]) -> None:
    for name in [name for name in tensors if joined in name]:
        for layer, part in zip(layers, tensors.pop(name).chunk(len(layers)), strict=True):
            tensors[name.replace(joined, layer)] = part


def load_transformers(folder: Path, _native: bool) -> Callable[[Tensor], Tokens]:
    """Load a folder with transformers; a missing or unexpected tensor is an error."""
    transformers: Any = import_extra("transformers", extra="hf", where=str(folder))
    transformers.utils.logging.disable_progress_bar()
    model, report = transformers.AutoModel.from_pretrained(
        str(folder), local_files_only=True, output_loading_info=True, dtype="float32"
    )
    faults = {kind: names for kind, names in report.items() if names}
    if faults:
        text = f"transformers reports {faults}"
        raise RuntimeError(text)
    model = model.eval()
    first_patch = 1 + getattr(model.config, "num_register_tokens", 0)

    def forward(images_B3XY: Tensor) -> Tokens:
        output = model(pixel_values=images_B3XY)
        return Tokens(output.pooler_output, output.last_hidden_state[:, first_patch:])

    return forward
