"""The recipe of ``dinoforge index``: meaning and unit of every key."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from dinoforge.clusters.layouts import Layout
from dinoforge.config.paths import EncoderSpec, PathText, SourceText
from dinoforge.config.ranges import (
    Device,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Precision,
    Range,
    Workers,
)
from dinoforge.errors import Fault
from dinoforge.images import DecodePolicy
from dinoforge.remote.urls import url_faults

__all__ = ["IndexConfig", "MapConfig", "PatchesConfig", "ThumbnailsConfig"]


@dataclass(frozen=True, kw_only=True)
class PatchesConfig:
    """Features of patches, for the search by parts of images, if the network has patches."""

    # images enter the network with the area of a square of this side, pixels; 0: no patches
    size: NonNegativeInt = 224
    regions: PositiveInt = 8  # vectors per image that propose images for an exact search


@dataclass(frozen=True, kw_only=True)
class ThumbnailsConfig:
    """Small pictures in WebP."""

    side: PositiveInt = 256  # of the longer side, pixels
    quality: Annotated[int, Range(1, 100)] = 80  # of WebP


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """The map of the collection."""

    # pca: the two principal components; tsne: t-SNE of cosines, by the extra `tsne`
    layout: Layout = "pca"
    # images that t-SNE lays out, evenly spaced; others lie between the 3 nearest of these
    sample: Annotated[int, Range(10)] = 5000


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """All keys of ``dinoforge index``."""

    LAUNCH_KEYS: ClassVar[tuple[str, ...]] = ("out",)  # see `dinoforge.runs`

    out: PathText = "runs/index"  # run folder, which is the index
    # images, folders, tars, globs, curation runs, or their URLs
    sources: list[SourceText] = field(default_factory=list)
    # see `dinoforge embed --encoder`; or the path of a training run or a file of weights
    encoder: EncoderSpec = "mobilenetv2"
    patches: PatchesConfig = field(default_factory=PatchesConfig)
    thumbnails: ThumbnailsConfig = field(default_factory=ThumbnailsConfig)
    map: MapConfig = field(default_factory=MapConfig)
    # what is kept of the JSON file or table beside an image, for the demo to show
    columns: list[str] = field(
        default_factory=lambda: ["source", "license", "url", "title", "caption"]
    )
    # memory that the searched vectors may take, GiB: it decides how they are stored
    memory: PositiveFloat = 4.0
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    seed: int = 0  # of the images on which the recall is measured, of clusters and of the map
    device: Device = "cpu"  # where networks run
    precision: Precision = "float32"  # of the products of the network
    workers: Workers = "auto"  # threads that decode and, on a CPU, run the network
    partition_images: PositiveInt = 1024  # images per partition of `embed`

    def faults(self, at: str) -> Iterator[Fault]:  # noqa: ARG002 - the root has no name
        """Find a command without sources, and URLs that cannot be read."""
        if not self.sources:
            do = "name folders, images or tars: dinoforge index FOLDER encoder=SPEC out=FOLDER"
            yield Fault("no sources", "`sources`", do)
        yield from url_faults("sources", self.sources)
