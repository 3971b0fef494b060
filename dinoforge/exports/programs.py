"""Files with their program, ONNX and TorchScript, for images of any number and size."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinoforge.exports.comparison import Tokens, sizes
from dinoforge.exports.source import Source, standalone_vit
from dinoforge.files import write_atomic
from dinoforge.packages import import_extra

__all__ = ["load_onnx", "load_torchscript", "write_onnx", "write_torchscript"]

_ONNX, _TORCHSCRIPT = "model.onnx", "model.pt"
_OUTPUTS = ("class_token", "patch_tokens", "register_tokens")
_ONE_FILE = 1 << 30  # bytes: above it the weights of ONNX get a file of their own


def _notes(source: Source) -> dict[str, str]:
    """Return what the encoders ``onnx:FILE`` and ``torchscript:FILE`` read, and the origin."""
    config = source.config
    return {
        **source.facts,
        "image_mean": json.dumps(source.mean),
        "image_std": json.dumps(source.std),
        **{k: str(getattr(config, k)) for k in ("image_size", "patch_size", "registers")},
        "positions": config.positions,
    }


class _Outputs(nn.Module):
    """The outputs of a ViT as a tuple, class token first."""

    def __init__(self, vit: nn.Module, registers: int) -> None:
        super().__init__()
        self.vit, self.registers = vit, registers

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.vit.forward_features(images)  # type: ignore[operator]
        tokens = outputs["x_norm_clstoken"], outputs["x_norm_patchtokens"]
        return (*tokens, outputs["x_norm_regtokens"]) if self.registers else tokens


def write_onnx(source: Source, folder: Path) -> None:
    """Write ``model.onnx``; weights above 1 GiB go into a second file beside it."""
    for name in ("onnx", "onnxscript"):
        import_extra(name, extra="onnx", where=str(folder))
    config = source.config
    patch = config.patch_size
    model = _Outputs(standalone_vit(source), config.registers).eval()
    height, width = sizes(max(config.image_size, 4 * patch), patch)[1]
    any_size = torch.export.Dim
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program: Any = torch.onnx.export(
            model,
            (torch.zeros(2, 3, height, width),),
            dynamo=True,
            verbose=False,
            dynamic_shapes={
                "images": {
                    0: any_size("batch"),
                    2: patch * any_size("rows"),
                    3: patch * any_size("columns"),
                }
            },
            input_names=["images"],
            output_names=list(_OUTPUTS[: 3 if config.registers else 2]),
        )
        program.model.metadata_props.update(_notes(source))
        bytes_of_weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        program.save(folder / _ONNX, external_data=bytes_of_weights > _ONE_FILE)


def load_onnx(folder: Path, _native: bool) -> Callable[[Tensor], Tokens]:
    """Load the file with onnxruntime."""
    onnxruntime: Any = import_extra("onnxruntime", extra="onnx", where=str(folder))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        str(folder / _ONNX), options, providers=["CPUExecutionProvider"]
    )

    def forward(images_B3XY: Tensor) -> Tokens:
        outputs = session.run(list(_OUTPUTS[:2]), {"images": images_B3XY.numpy()})
        return Tokens(*map(torch.from_numpy, outputs))

    return forward


def write_torchscript(source: Source, folder: Path) -> None:
    """Write ``model.pt``: calling it gives the class token, `forward_features` all tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated: programs of others run it
        program = torch.jit.script(standalone_vit(source))

        def save(file: Any) -> None:
            torch.jit.save(program, file, _extra_files=_notes(source))

        write_atomic(folder / _TORCHSCRIPT, save)


def load_torchscript(folder: Path, _native: bool) -> Callable[[Tensor], Tokens]:
    """Load the file with TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.load(folder / _TORCHSCRIPT, map_location="cpu")

    def forward(images_B3XY: Tensor) -> Tokens:
        outputs = program.forward_features(images_B3XY)
        return Tokens(program(images_B3XY), outputs["x_norm_patchtokens"])

    return forward
