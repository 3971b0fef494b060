"""What the extraction of an evaluation needs: partitions, bytes and hours, by closed forms.

Protocols are cheap beside it. Rates are assumptions that the plan names: nothing is run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dinoforge.device import Gpu
from dinoforge.evaluation.config import EvaluationConfig, SetConfig, named_sets
from dinoforge.evaluation.data import open_sets
from dinoforge.evaluation.features import VectorRequest, open_extractor
from dinoforge.evaluation.methods.grids import frame_size
from dinoforge.evaluation.models import Model, find_models
from dinoforge.evaluation.published import open_published
from dinoforge.evaluation.stages.features import FeaturesStage
from dinoforge.evaluation.suite import PROTOCOL_STAGES
from dinoforge.evaluation.tables import ITEMS_SCHEMA, Items
from dinoforge.evaluation.tokens import TokenRequest
from dinoforge.models.config import VitConfig

__all__ = ["CORE_FLOPS", "GPU_SHARE", "Extraction", "count_images", "plan_extraction"]

GPU_SHARE = 0.4  # of the peak float32 rate; assumed, not measured
# Of one thread: a ViT-S/14 at 224 pixels on a Sapphire Rapids core (`benchmarks/extraction.py`).
CORE_FLOPS = 1.25e11
# Decoding JPEGs and resizing them to 224 pixels, on the same core.
_DECODE_S_PER_PIXEL = 1.6e-8
_PIXELS = (395, 471)  # height and width of an image of ImageNet, on average


@dataclass(frozen=True)
class Extraction:
    """Features of one data set by one model, in one request."""

    model: str
    data: str
    output: str  # vectors, or tokens of so many patches
    images: int  # of a set; of augmented views, which are of its bank alone, at most
    partitions: int
    bytes_per_image: int
    flops_per_image: float  # 0: an encoder whose operations are not known
    gpu_hours: float | None  # None: the rate of the GPU, or the operations, are not known
    core_hours: float | None  # the same on CPU cores
    decode_core_hours: float  # beside either

    @property
    def bytes(self) -> int:
        """Bytes on disk: one copy, to which cache and run have a name each."""
        return self.images * self.bytes_per_image

    def as_json(self) -> dict[str, Any]:
        """JSON object, total bytes included."""
        return asdict(self) | {"bytes": self.bytes}


def count_images(config: EvaluationConfig, cache: Path) -> dict[str, int]:
    """Count the images of every data set of a recipe, by listing them.

    Raises
    ------
    UsageError
        If a path is missing.
    """
    counts = {}
    for name, one in named_sets(config).items():
        if one.layout:
            counts[name] = open_published(one, config.decode, cache).table.num_rows
        else:
            counts[name] = sum(map(len, open_sets(one, cache, config.decode)))
    return counts


def plan_extraction(
    config: EvaluationConfig,
    images: Mapping[str, int],
    *,
    gpu: Gpu,
    share: float = GPU_SHARE,
    vit: VitConfig | None = None,
) -> list[Extraction]:
    """Plan what every model extracts from every data set.

    ``images`` are those of each set, ``share`` the part of the peak rate that is reached; ``vit``
    replaces the models of the recipe by one that need not exist yet.

    Raises
    ------
    UsageError
        If a checkpoint is missing.
    """
    stage = FeaturesStage(PROTOCOL_STAGES)
    decode_s = _PIXELS[0] * _PIXELS[1] * _DECODE_S_PER_PIXEL
    plans = []
    for model, architecture in _models(config, vit):
        for name, one in named_sets(config).items():
            for vectors, tokens, size in stage.requests(config, model, _stub(name, one)):
                if tokens is not None:
                    request = TokenRequest.from_json(tokens)
                    assert architecture is not None, "tokens of a ViT"
                    output, patches, numbers = _tokens(request, architecture)
                else:
                    assert vectors is not None, "vectors or tokens"
                    output, patches, numbers = _vectors(
                        VectorRequest(**vectors), model, architecture
                    )
                flops = architecture.forward_flops(patches) if architecture else 0
                width = np.dtype(config.storage).itemsize
                count = images[name]
                rate = gpu.float32 * share
                plans.append(
                    Extraction(
                        model=model.name,
                        data=name,
                        output=output,
                        images=count,
                        partitions=-(-count // size),
                        bytes_per_image=numbers * width + 1,
                        flops_per_image=flops,
                        gpu_hours=count * flops / rate / 3600 if rate and flops else None,
                        core_hours=count * flops / CORE_FLOPS / 3600 if flops else None,
                        decode_core_hours=count * decode_s / 3600,
                    )
                )
    return plans


def _models(
    config: EvaluationConfig, vit: VitConfig | None
) -> list[tuple[Model, VitConfig | None]]:
    if vit is not None:
        kinds = tuple(config.features)
        planned = Model(
            name=vit.name,
            file=Path(vit.name),
            features=kinds,
            depth=vit.depth,
            patch_size=vit.patch_size,
        )
        return [(planned, vit)]
    models: list[tuple[Model, VitConfig | None]] = []
    for model in find_models(config):
        encoder = open_extractor(model, device="cpu").vit
        known = encoder.model.config if encoder is not None else None
        depth, patch = (known.depth, known.patch_size) if known else (0, 0)
        models.append((Model(**{**vars(model), "depth": depth, "patch_size": patch}), known))
    return models


def _stub(name: str, one: SetConfig) -> Items:
    """Return two images that stand for a data set: which requests there are depends on no more."""
    known = {"number": [0, 0], "in_bank": [True, False], "in_test": [False, True]}
    columns = [pa.array(known.get(f.name, [None, None]), f.type) for f in ITEMS_SCHEMA]
    table = pa.table(columns, schema=ITEMS_SCHEMA)
    facts = {"layout": one.layout, "leave_one_out": False, "truth": "", "problems": []}
    return Items(name, table, facts)


def _vectors(request: VectorRequest, model: Model, vit: VitConfig | None) -> tuple[str, int, int]:
    """Return the name of the output, patches of the input, numbers per image."""
    if vit is None:
        extractor = open_extractor(model, device="cpu")
        ((rows,),) = (vectors.values() for vectors in extractor.work.encode_each([[]]))
        return "vectors", 0, rows.shape[1]
    side = request.side or min(vit.image_size, 224)
    blocks = min(request.blocks, vit.depth)
    outputs = 2 + request.gem + (blocks if blocks > 1 else 0)
    output = f"vectors, view {request.view}" if request.view >= 0 else "vectors"
    return output, (side // vit.patch_size) ** 2, outputs * vit.width


def _tokens(request: TokenRequest, vit: VitConfig) -> tuple[str, int, int]:
    patch = vit.patch_size
    height, width = request.size
    if request.fit == "short":
        height, width = frame_size(*_PIXELS, patch, short=request.side)
    elif request.fit == "pad":
        height, width = (-(-side // patch) * patch for side in _PIXELS)
    patches = (height // patch) * (width // patch)
    per_patch = {"attention": vit.heads}
    numbers = sum(
        vit.width if "cls" in name else patches * per_patch.get(name, vit.width)
        for name in request.arrays
    )
    return f"tokens, {height // patch} x {width // patch}", patches, numbers
