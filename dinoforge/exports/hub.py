"""A folder that ``torch.hub.load(FOLDER, NAME, source="local")`` opens; it needs only torch."""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dinoforge.exports import standalone
from dinoforge.exports.comparison import Tokens
from dinoforge.exports.source import Source, standalone_settings
from dinoforge.files import write_atomic, write_text
from dinoforge.models.config import VitConfig

__all__ = ["entry_name", "load_hub", "write_hub"]

_LETTERS = {"small": "s", "base": "b", "large": "l", "giant": "g"}
_HUBCONF = '''\
"""torch.hub: {name}, a vision transformer trained with dinoforge. vit.py needs only torch."""

import importlib.util
from pathlib import Path

import torch

dependencies = ["torch"]

_FOLDER = Path(__file__).resolve().parent

IMAGE_MEAN = {mean}  # of RGB in [0, 1]
IMAGE_STD = {std}
SETTINGS = {settings}


def {name}(pretrained: bool = True, **changes):
    """Build the backbone, in evaluation mode if pretrained.

    Images are normalized by IMAGE_MEAN and IMAGE_STD, [B, 3, height, width], sides multiples of
    {patch}. ``changes`` replace some of SETTINGS, such as ``positions``.
    """
    # By its path: another module may be named `vit`, too.
    spec = importlib.util.spec_from_file_location("{name}_vit", _FOLDER / "vit.py")
    vit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vit)
    model = vit.VisionTransformer(**(SETTINGS | changes))
    if pretrained:
        state = torch.load(_FOLDER / "{name}.pth", map_location="cpu", weights_only=True)
        model.load_state_dict(state)
        model.eval()
    return model
'''


def entry_name(config: VitConfig) -> str:
    """Return the name of the function: ``dinoforge_vits14_reg``, as the releases of DINOv2."""
    if config.architecture == "custom":
        return f"dinoforge_{config.name}"
    letter = _LETTERS[config.architecture]
    registers = {0: "", 4: "_reg"}.get(config.registers, f"_reg{config.registers}")
    rope = "_rope" if config.positions == "rope" else ""
    return f"dinoforge_vit{letter}{config.patch_size}{registers}{rope}"


def write_hub(source: Source, folder: Path) -> None:
    """Write ``hubconf.py``, ``vit.py`` and the weights, ``NAME.pth``."""
    name, settings = entry_name(source.config), standalone_settings(source.config)
    lines = [f"    {key!r}: {value!r}," for key, value in settings.items()]
    text = _HUBCONF.format(
        name=name,
        mean=tuple(source.mean),
        std=tuple(source.std),
        settings="\n".join(["{", *lines, "}"]).replace("'", '"'),
        patch=source.config.patch_size,
    )
    write_text(folder / "hubconf.py", text)
    write_text(folder / "vit.py", Path(standalone.__file__).read_text(encoding="utf-8"))
    state = {name: tensor.clone() for name, tensor in source.backbone.model.state_dict().items()}
    buffer = io.BytesIO()  # on a full disk, torch.save has no OSError
    torch.save(state, buffer)
    write_atomic(folder / f"{name}.pth", lambda file: file.writelines([buffer.getbuffer()]))


def load_hub(folder: Path, _native: bool) -> Callable[[Tensor], Tokens]:
    """Load a folder with torch.hub."""
    (weights,) = folder.glob("*.pth")
    model = torch.hub.load(str(folder), weights.stem, source="local")

    def forward(images_B3XY: Tensor) -> Tokens:
        outputs = model.forward_features(images_B3XY)
        return Tokens(outputs["x_norm_clstoken"], outputs["x_norm_patchtokens"])

    return forward
