"""A folder that timm opens: ``timm.create_model("local-dir:FOLDER", pretrained=True)``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from dinoforge.exports.comparison import Tokens
from dinoforge.exports.source import Source
from dinoforge.files import write_json
from dinoforge.models.config import VitConfig
from dinoforge.models.writing import write_tensors
from dinoforge.packages import import_extra

__all__ = ["find_timm_obstacles", "load_timm", "write_timm"]

_REGISTERS = 4  # of the named architectures with registers
_SIDE = 518  # pixels, of their images


def find_timm_obstacles(config: VitConfig) -> Iterator[str]:
    """Name what timm's VisionTransformer does not support."""
    if config.positions == "rope":
        yield "rotary positions"
    if config.norm_eps != 1e-6:
        yield f"a norm_eps of {config.norm_eps:g} (always 1e-06)"


def write_timm(source: Source, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` with timm's names; the mask token is lost."""
    config = source.config
    base = config.architecture if config.architecture != "custom" else "small"
    if config.ffn == "swiglu":
        base = "giant"  # the only one with this layer, which JSON cannot name
    registers = f"_reg{_REGISTERS}" if config.registers else ""
    pretrained = {
        "tag": "dinoforge",
        "custom_load": False,
        "input_size": [3, config.image_size, config.image_size],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(source.mean),
        "std": list(source.std),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": source.facts.get("license"),
    }
    settings = {
        "architecture": f"vit_{base}_patch14{registers}_dinov2",
        "num_classes": 0,
        "num_features": config.width,
        "global_pool": "token",
        "model_args": _model_args(config, base),
        "pretrained_cfg": pretrained,
    }
    write_json(folder / "config.json", settings)
    tensors = _timm_tensors(source.backbone.model.state_dict())
    write_tensors(folder / "model.safetensors", tensors, source.facts | {"format": "pt"})


def _model_args(config: VitConfig, base: str) -> dict[str, Any]:
    """Return the arguments that differ from those of the named architecture."""
    named = VitConfig.named(base, registers=_REGISTERS if config.registers else 0, image_size=_SIDE)
    own, usual = _arguments(config), _arguments(named)
    return {name: value for name, value in own.items() if value != usual[name]}


def _arguments(config: VitConfig) -> dict[str, Any]:
    hidden = config.ffn_width * (2 if config.ffn == "swiglu" else 1)
    ratio = hidden / config.width
    if int(config.width * ratio) != hidden:
        ratio = (hidden + 0.5) / config.width  # timm rounds down
    return {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": ratio,
        "init_values": config.layer_scale or None,
        "reg_tokens": config.registers,
        "qkv_bias": config.bias,
        "proj_bias": config.bias,
    }


def _timm_tensors(released: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {
        name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): tensor
        for name, tensor in released.items()
        if name != "mask_token"
    }
    if "register_tokens" in tensors:
        tensors["reg_token"] = tensors.pop("register_tokens")
        positions = tensors["pos_embed"]
        tensors["cls_token"] = tensors["cls_token"] + positions[:, :1]
        tensors["pos_embed"] = positions[:, 1:]
    return tensors


def load_timm(folder: Path, native: bool) -> Callable[[Tensor], Tokens]:
    """Load a folder with timm; not ``native``: for any size of images."""
    timm: Any = import_extra("timm", extra="timm", where=str(folder))
    options = {} if native else {"dynamic_img_size": True}
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()

    def forward(images_B3XY: Tensor) -> Tokens:
        tokens_BND = model.forward_features(images_B3XY)
        return Tokens(model.forward_head(tokens_BND), tokens_BND[:, model.num_prefix_tokens :])

    return forward
