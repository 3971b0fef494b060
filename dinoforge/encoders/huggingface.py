"""Folders of transformers with other networks than the ViTs of DINO: their pooled vectors.

The package itself runs them (extra `hf`), from local files only and without code of the folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dinoforge.device import resolve_device
from dinoforge.encoders.backbone import weights_hash
from dinoforge.encoders.network import Transform, normalization_of
from dinoforge.encoders.network_encoder import NetworkEncoder
from dinoforge.errors import UsageError, first_line
from dinoforge.files import path_text, sha256_file
from dinoforge.models.huggingface import folder_settings, normalization_notes, processor_settings
from dinoforge.packages import import_extra

__all__ = ["transformers_encoder"]

_SIDE = 224


def transformers_encoder(folder: Path, *, device: str = "cpu") -> NetworkEncoder:
    """Make the encoder ``hf:FOLDER`` of any image network.

    Its vectors are the image features of a model of images and texts (CLIP, SigLIP); else the
    pooled output, if its weights are in the folder; else the mean of all tokens, or of the last
    map. Images have the size of ``config.json``.

    Raises
    ------
    UsageError
        If the folder or the package is missing, or the network takes no images.
    """
    settings = folder_settings(folder)
    resolve_device(device)
    model, has_pooler = _load(folder)
    model = model.to(device)
    transform = Transform(
        _side(settings, processor_settings(folder)),
        *normalization_of(normalization_notes(folder), str(folder)),
    )
    vision = bool(settings.get("vision_config")) and hasattr(model, "get_image_features")

    def forward(batch_B3SS: Tensor) -> Tensor:
        if vision:
            return _pooled(model.get_image_features(pixel_values=batch_B3SS), has_pooler=True)
        return _pooled(model(pixel_values=batch_B3SS), has_pooler=has_pooler)

    return NetworkEncoder(
        f"hf:{path_text(folder)}",
        forward,
        transform,
        weights=weights_hash(folder),
        device=device,
        settings=sha256_file(folder / "config.json"),
    )


def _load(folder: Path) -> tuple[Any, bool]:
    """Load the model; also returns whether the weights of its pooled output are in the folder."""
    note = "; the ViTs of DINOv2 and DINOv3 do without it"
    transformers = import_extra("transformers", extra="hf", where=f"hf:{folder}", note=note)
    try:
        model, report = transformers.AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,  # without it transformers asks the user
            output_loading_info=True,
            dtype="float32",
        )
    except Exception as error:  # each architecture has its own errors
        raise UsageError(
            what=f"transformers cannot load the folder: {first_line(error)}",
            where=str(folder),
            do="give a folder written by save_pretrained, of an architecture without own code",
        ) from error
    missing = sorted(report["missing_keys"])
    others = [name for name in missing if "pooler" not in name]
    if others:
        raise UsageError(
            what=f"{len(others)} weights are missing, such as {others[0]}",
            where=str(folder),
            do="download or copy the folder again",
        )
    return model.eval(), not missing


def _side(settings: Mapping[str, Any], processor: Mapping[str, Any]) -> int:
    """Return the side of the network's images, pixels, from its settings or its processor's."""
    candidates = [
        settings.get("image_size"),
        dict(settings.get("vision_config") or {}).get("image_size"),
        processor.get("crop_size"),
        processor.get("size"),
    ]
    for value in candidates:
        sides = value.values() if isinstance(value, dict) else [value]
        for side in sides:
            if isinstance(side, int) and side > 0:
                return side
    return _SIDE


def _pooled(output: Any, *, has_pooler: bool) -> Any:
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None and has_pooler:
        return pooled.flatten(1)
    last = output.last_hidden_state
    return last.mean(dim=1) if last.ndim == 3 else last.flatten(2).mean(dim=2)
