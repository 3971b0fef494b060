"""Models of timm (extra `timm`), with weights from a file, a folder or the local caches.

Nothing is downloaded. timm also imports torchvision, which has to fit the installed torch.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dinoforge.device import resolve_device
from dinoforge.encoders.network import Transform
from dinoforge.encoders.network_encoder import NetworkEncoder
from dinoforge.errors import UsageError, first_line, some_of
from dinoforge.files import hash_json, path_text, sha256_file
from dinoforge.models.conversion import log_left_out, without_wrappers
from dinoforge.models.huggingface import folder_settings
from dinoforge.models.pooled.timm_network import create_timm
from dinoforge.models.reading import read_tensors

__all__ = ["TimmSpec", "split_timm", "timm_encoder"]

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SETTINGS = "config.json"  # of a folder
_BACKBONES = ("teacher.backbone.", "backbone.")  # of a training checkpoint, beside heads


class TimmSpec(NamedTuple):
    """The parts of ``timm:NAME@FILE#FEATURES``, or of ``timm:FOLDER#FEATURES``."""

    model: str  # or a folder with its settings and weights
    path: Path | None = None  # None: pretrained weights of the local caches
    features: str = ""  # "": the class token of a ViT that has one, else what timm pools

    @property
    def name(self) -> str:
        """The spec."""
        file = "" if self.path is None else f"@{path_text(self.path)}"
        return f"timm:{self.model}{file}" + "#" * bool(self.features) + self.features


def split_timm(text: str, features: tuple[str, ...]) -> TimmSpec:
    """Split ``NAME@FILE#FEATURES`` or ``FOLDER#FEATURES``.

    The file and one of ``features`` may be left out.
    """
    before, _, option = text.rpartition("#")
    rest, option = (before, option) if option in features else (text, "")
    if _is_folder(rest):
        return TimmSpec(rest, features=option)
    model, at_sign, file = rest.partition("@")
    return TimmSpec(model, Path(file) if at_sign else None, option)


def _is_folder(model: str) -> bool:
    """Return whether a model is a folder that timm opens, as `dinoforge export` writes them."""
    return (Path(model) / _SETTINGS).is_file() and "architecture" in folder_settings(Path(model))


def timm_encoder(spec: TimmSpec, *, device: str = "cpu") -> NetworkEncoder:
    """Make the encoder of a model of timm, at the size and normalization of its configuration.

    Raises
    ------
    UsageError
        If timm, the model, its weights or the features are missing.
    """
    resolve_device(device)
    is_folder = _is_folder(spec.model)
    model = create_timm(spec.model, spec.name, is_folder=is_folder)
    facts = dict(model.pretrained_cfg)
    path = Path(spec.model) / _HUB_FILES[0] if is_folder else spec.path or _cached(facts, spec)
    if not path.is_file():
        do = "write timm:NAME@FILE, or timm:NAME for the local caches"
        raise UsageError(what="no such file", where=str(path), do=do)
    _load(model, path, facts)
    model = model.eval().to(device)
    features = spec.features or ("cls" if _has_class_token(model) else "")
    _check_features(model, features, spec)
    _, height, width = facts["input_size"]
    if height != width:
        do = "choose a model of square images"
        raise UsageError(what=f"images of {height} x {width}", where=spec.name, do=do)
    return NetworkEncoder(
        spec.name,
        lambda batch_B3SS: _vectors(model, batch_B3SS, features),
        Transform(height, tuple(facts["mean"]), tuple(facts["std"])),
        weights=sha256_file(path),
        device=device,
        model=hash_json(folder_settings(Path(spec.model))) if is_folder else spec.model,
        features=features,
    )


def _cached(facts: Mapping[str, Any], spec: TimmSpec) -> Path:
    """Find the pretrained weights in the cache of Hugging Face or of torch."""
    hub = importlib.import_module("huggingface_hub")
    names = [facts["hf_hub_filename"]] if facts.get("hf_hub_filename") else _HUB_FILES
    for name in names if facts.get("hf_hub_id") else ():
        cached = hub.try_to_load_from_cache(facts["hf_hub_id"], name)
        if isinstance(cached, str):
            return Path(cached)
    if url := facts.get("url"):
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        if path.is_file():
            return path
    raise UsageError(
        what="the pretrained weights are not on this machine; nothing is downloaded",
        where=spec.name,
        do=f"fill the cache by timm.create_model({spec.model!r}, pretrained=True), or give "
        f"timm:{spec.model}@FILE",
    )


def _load(model: Any, path: Path, facts: Mapping[str, Any]) -> None:
    """Load weights without their classifier; any other difference is an error."""
    stored = without_wrappers(read_tensors(path)[0])
    prefix = next((p for p in _BACKBONES if any(n.startswith(p) for n in stored)), "")
    log_left_out([name for name in stored if not name.startswith(prefix)], str(path))
    tensors = {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    classifiers = facts.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    try:
        if convert is not None:
            tensors = convert(tensors, model)
        beginnings = tuple(f"{name}." for name in classifiers)
        kept = {n: t for n, t in tensors.items() if not n.startswith(beginnings)}
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except (RuntimeError, KeyError, ValueError, AttributeError) as error:
        raise UsageError(
            what=f"the weights do not match the model: {first_line(error)}",
            where=str(path),
            do="give weights of this model",
        ) from error
    for names, kind in ((missing, "missing"), (unexpected, "unexpected")):
        if names:
            raise UsageError(
                what=f"the weights do not match the model: {len(names)} {kind} "
                f"({some_of(names, 3)})",
                where=str(path),
                do="give weights of this model",
            )


def _has_class_token(model: Any) -> bool:
    return getattr(model, "cls_token", None) is not None and hasattr(model, "num_prefix_tokens")


def _check_features(model: Any, features: str, spec: TimmSpec) -> None:
    has_tokens = hasattr(model, "num_prefix_tokens")
    if features and not (has_tokens and (features == "patch_mean" or _has_class_token(model))):
        token = "class token" if has_tokens else "tokens"
        raise UsageError(
            what=f"no features `{features}`: the model has no {token}",
            where=spec.name,
            do="leave them out: what timm pools",
        )


def _vectors(model: Any, batch_B3SS: Tensor, features: str) -> Any:
    """Return ``cls``, ``patch_mean`` or ``both`` of a ViT, or ("") what timm pools."""
    if not features:
        return model(batch_B3SS)
    tokens_BND = model.forward_features(batch_B3SS)
    cls, patches = tokens_BND[:, 0], tokens_BND[:, model.num_prefix_tokens :].mean(dim=1)
    if features == "both":
        return torch.cat([normalize(cls, dim=1), normalize(patches, dim=1)], dim=1)
    return cls if features == "cls" else patches
