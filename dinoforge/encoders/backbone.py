"""One way to open a ViT, whatever it is stored in, for encoders and dense protocols."""

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from dinoforge.errors import UsageError
from dinoforge.files import hash_json, sha256_file
from dinoforge.models.config import PositionMode, VitConfig
from dinoforge.models.huggingface import folder_files, load_folder
from dinoforge.models.pooled.files import is_pooled
from dinoforge.models.vit import VisionTransformer
from dinoforge.models.weights import load_backbone

__all__ = ["Backbone", "open_backbone", "weights_hash"]


class Backbone(NamedTuple):
    """A ViT (float32, evaluation mode, CPU) and what is known of it."""

    model: VisionTransformer
    config: VitConfig
    metadata: dict[str, str]  # see `normalization_of` for mean and standard deviation
    fingerprint: str  # of weights, settings and positions; without transform and decoder


def open_backbone(path: Path, *, positions: PositionMode | None = None) -> Backbone:
    """Open a weights file (`load_backbone`) or a folder of transformers (`load_folder`).

    ``positions`` is the mode that a user names, for a file that does not determine it.

    Raises
    ------
    UsageError
        If there is no such file or folder, it holds no ViT (of a `PooledNetwork`: that there are no
        patch tokens), or it contradicts ``positions``.
    """
    if not path.exists():
        do = "give a file of weights, or a folder written by save_pretrained"
        raise UsageError(what="no such file or folder", where=str(path), do=do)
    if is_pooled(path):
        raise UsageError(
            what="a network with one vector per image, without patch tokens and attention maps",
            where=str(path),
            do="give a ViT; `dinoforge evaluate` and `dinoforge embed` take this file",
        )
    load = load_folder if path.is_dir() else load_backbone
    model, config, metadata = load(path, positions=positions)
    parts = {"weights": weights_hash(path), "config": asdict(config)}
    # Of a file with two sets of weights, the others were read before.
    parts |= {name: metadata[name] for name in ("averaged",) if name in metadata}
    return Backbone(model, config, metadata, hash_json(parts))


def weights_hash(path: Path) -> str:
    """Return the SHA-256 of a weights file, or one of all weights files of a folder."""
    if not path.is_dir():
        return sha256_file(path)
    files = folder_files(path)
    return sha256_file(files[0]) if len(files) == 1 else hash_json([*map(sha256_file, files)])
