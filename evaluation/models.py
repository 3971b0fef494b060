"""The models to measure: the backbones of a training run, or one file, and baselines."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinoforge.encoders.make import is_vit, split_vit
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import FEATURES, EvaluationConfig, step_of
from dinoforge.files import path_of_text, path_text
from dinoforge.models.config import PositionMode
from dinoforge.steps import exported_steps

__all__ = ["MODEL_KEYS", "POOLED", "Model", "find_models"]

POOLED = ("pooled",)  # features of a network without tokens

# What `find_models` reads.
MODEL_KEYS = ("checkpoint", "checkpoints", "positions", "baselines", "features")

# Names of encoders in records; other encoders keep their own.
_NAMES = {
    "pixels": "pixel_descriptor",
    "pixels_centered": "pixels",
    "pixels_raw": "pixels_less_mean",
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """One encoder under a name that records and reports use."""

    name: str  # "trained", "untrained", "pixels", ...
    features: tuple[str, ...]  # kinds of features
    encoder: str = ""  # see `dinoforge.encoders.make_encoder`; "" for a file
    file: Path | None = None  # weights of a ViT, or of a network without tokens (`POOLED`)
    positions: PositionMode | None = None  # named by the user for the file
    step: int | None = None  # training step of an exported backbone
    is_newest: bool = True  # False: an earlier step, for the curve
    # Known once it was opened: a hash of weights, transform and decoder; file or encoder and the
    # hash of its weights, for records.
    fingerprint: str = ""
    checkpoint: str = ""
    depth: int = 0  # blocks of a ViT; 0: no tokens of patches
    patch_size: int = 0

    def as_json(self) -> dict[str, Any]:
        """JSON object of the model."""
        file = None if self.file is None else path_text(self.file)
        return asdict(self) | {"features": list(self.features), "file": file}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Model":
        """Inverse of `as_json`."""
        file = None if row["file"] is None else Path(path_of_text(row["file"]))
        return cls(**{**row, "features": tuple(row["features"]), "file": file})

    @property
    def is_vit(self) -> bool:
        """Whether it has a class token and patches, and not one vector of its own."""
        return self.file is not None and self.features != POOLED

    @property
    def subtracts_mean(self) -> bool:
        """Whether the mean of the bank is subtracted first."""
        return self.encoder == "pixels_raw"

    @property
    def is_pixels(self) -> bool:
        """Whether features are pixels, without a network."""
        return self.encoder.startswith("pixels")


def find_models(config: EvaluationConfig) -> list[Model]:
    """List the models in the order of the report: trained, untrained, baselines, earlier steps.

    Raises
    ------
    UsageError
        If there is no such checkpoint, or two models have the same name.
    """
    kinds = tuple(kind for kind in FEATURES if kind in config.features)
    checkpoints = _checkpoints(config, kinds) if config.checkpoint else []
    newest = [model for model in checkpoints if model.is_newest]
    newest += [_baseline(text, kinds) for text in config.baselines]
    _check_names(newest)
    return newest + [model for model in checkpoints if not model.is_newest]


def _checkpoints(config: EvaluationConfig, kinds: tuple[str, ...]) -> list[Model]:
    path = Path(config.checkpoint)
    step, mode = step_of(config.checkpoints), config.positions or None
    if not path.is_dir():
        if step is not None:
            raise UsageError(
                what=f"`checkpoints` is {step}, but `checkpoint` is not a training run",
                where=str(path),
                do="give checkpoint=RUN, or remove `checkpoints`",
            )
        return [Model(name="trained", file=path, features=_kinds(path, kinds), positions=mode)]
    steps = exported_steps(path)
    trained = _trained_steps(step, path, steps)
    names = [("trained", step) for step in trained[:1]]
    names += [("untrained", 0)] if 0 in steps else []
    names += [("trained", step) for step in trained[1:] if config.checkpoints == "all"]
    return [
        Model(
            name=name,
            file=steps[step],
            features=_kinds(steps[step], kinds),
            positions=mode,
            step=step,
            is_newest=step in {0, trained[0]},
        )
        for name, step in names
    ]


def _trained_steps(step: int | None, run: Path, steps: Collection[int]) -> list[int]:
    """List exported steps after step 0, newest first; or the one that the recipe names."""
    trained = sorted((step for step in steps if step > 0), reverse=True)
    if not trained:
        raise UsageError(
            what="the training run has not exported a trained backbone",
            where=str(run / "export"),
            do="finish `dinoforge train`, or give the path of a .safetensors file",
        )
    if step is None:
        return trained
    if step not in trained:
        raise UsageError(
            what=f"step {step} is not exported",
            where=str(run / "export"),
            do=f"choose from {', '.join(map(str, reversed(trained)))}",
        )
    return [step]


def _kinds(file: Path, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the kinds of features of a file: those of a ViT, or the only one."""
    # It needs torch, and a login node that submits an evaluation may have none.
    from dinoforge.models.pooled.files import is_pooled

    return POOLED if is_pooled(file) else kinds


def _baseline(text: str, kinds: tuple[str, ...]) -> Model:
    name, equals, encoder = text.partition("=")
    if not equals or ":" in name:  # in `checkpoint:a=b.pth` it belongs to the path
        name, encoder = _NAMES.get(text, text), text
    if (vit := split_vit(encoder)) is not None and is_vit(vit):
        features = (vit.features,) if vit.features else _kinds(Path(vit.path), kinds)
        return Model(name=name, file=Path(vit.path), features=features, positions=vit.positions)
    return Model(name=name, encoder=encoder, features=(name,))


def _check_names(models: Sequence[Model]) -> None:
    names = [model.name for model in models]
    if "" in names:
        raise UsageError(what="a model has no name", where="`baselines`", do="write NAME=ENCODER")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            what=f"two models are named {', '.join(twice)}",
            where="`baselines`",
            do="write NAME=ENCODER",
        )
