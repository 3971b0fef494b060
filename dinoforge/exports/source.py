"""What is exported: a stored backbone, or one that a training run has exported."""

from pathlib import Path
from typing import NamedTuple

from dinoforge.encoders.backbone import Backbone, open_backbone, weights_hash
from dinoforge.encoders.network import normalization_of
from dinoforge.errors import UsageError
from dinoforge.exports import standalone
from dinoforge.models.config import POSITION_MODES, VitConfig
from dinoforge.steps import exported_steps

__all__ = ["Source", "open_source", "standalone_settings", "standalone_vit"]


class Source(NamedTuple):
    """A backbone and where it is from."""

    backbone: Backbone
    path: Path  # of the file or folder of weights
    sha256: str
    mean: tuple[float, ...]  # of RGB in [0, 1]
    std: tuple[float, ...]

    @property
    def config(self) -> VitConfig:
        """Sizes of the backbone."""
        return self.backbone.config

    @property
    def facts(self) -> dict[str, str]:
        """Facts that formats store: architecture, run, step, license, ..., as far as known."""
        own = {"config", "format", "dinoforge", "image_mean", "image_std"}
        known = {k: v for k, v in self.backbone.metadata.items() if k not in own}
        return known | {"architecture": self.config.name, "source_sha256": self.sha256}


def open_source(path: Path, *, step: int | None = None, positions: str | None = None) -> Source:
    """Open a file or folder (`open_backbone`), or a training run: its newest export, or ``step``.

    Raises
    ------
    UsageError
        If there is no backbone or no such step, or ``positions`` is not a mode (`POSITION_MODES`)
        or contradicts the file.
    """
    mode = None
    if positions is not None:
        mode = next((mode for mode in POSITION_MODES if mode == positions), None)
        if mode is None:
            do = f"choose from {', '.join(POSITION_MODES)}"
            raise UsageError(what=f"unknown mode `{positions}`", where="--positions", do=do)
    if path.is_dir() and not (path / "config.json").is_file():
        path = _exported(path, step)
    elif step is not None:
        do = "leave out --step, or give the folder of a run"
        raise UsageError(what="only a training run has steps", where=str(path), do=do)
    backbone = open_backbone(path, positions=mode)
    mean, std = normalization_of(backbone.metadata, str(path))
    return Source(backbone, path, weights_hash(path), mean, std)


def _exported(run: Path, step: int | None) -> Path:
    steps = exported_steps(run)
    if not steps:
        raise UsageError(
            what="no backbone: neither a training run with an export nor a folder of transformers",
            where=str(run),
            do="wait for the first export of `dinoforge train`, or give a file of weights",
        )
    step = max(steps) if step is None else step
    if step not in steps:
        do = f"choose from {', '.join(map(str, steps))}"
        raise UsageError(what=f"step {step} is not exported", where=str(run / "export"), do=do)
    return steps[step]


def standalone_settings(config: VitConfig) -> dict[str, int | float | bool | str]:
    """Return the arguments of `standalone.VisionTransformer` for a backbone."""
    return {
        "width": config.width,
        "depth": config.depth,
        "heads": config.heads,
        "patch_size": config.patch_size,
        "hidden": config.ffn_width,
        "gated": config.ffn == "swiglu",
        "registers": config.registers,
        "layer_scale": config.layer_scale,
        "bias": config.bias,
        "grid": config.grid,
        "positions": config.positions,
        "norm_eps": config.norm_eps,
    }


def standalone_vit(source: Source) -> standalone.VisionTransformer:
    """Build the standalone ViT with the weights of a backbone."""
    settings: dict = standalone_settings(source.config)
    model = standalone.VisionTransformer(**settings)
    model.load_state_dict(source.backbone.model.state_dict())
    return model.eval()
