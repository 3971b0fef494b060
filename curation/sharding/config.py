"""The recipe of ``dinoforge shard``: meaning and unit of every key."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from dinoforge.config.paths import OptionalSource, PathText, SourceText
from dinoforge.config.ranges import NonNegativeInt, PositiveInt, Range
from dinoforge.curation.config import DataConfig, FileName, PublishConfig
from dinoforge.errors import Fault
from dinoforge.images import DecodePolicy
from dinoforge.remote.urls import url_faults

__all__ = ["IdsConfig", "ResizeConfig", "ShardingConfig"]


@dataclass(frozen=True, kw_only=True)
class IdsConfig:
    """Which samples to take; by default all of them."""

    # list of ids: text with one per line, `.csv`, `.tsv` or `.parquet`, or `.npy` with two uint64
    # per id, the uid files of DataComp; or its URL; "": all samples
    file: OptionalSource = ""
    column: str = ""  # of a CSV file or Parquet table; "": named as `field` or `key`, else the only
    # what the ids are: a field of the `.json` member, such as uid; "": the key of the sample
    field: str = ""

    def faults(self, at: str) -> Iterator[Fault]:
        """Find an `.npy` of keys, keys that a missing file leaves unused, a URL that is none."""
        yield from url_faults(f"{at}.file", [self.file])
        if self.file.endswith(".npy") and not self.field:
            what = f"`{at}.file` is a .npy, whose ids are 128-bit numbers and no keys"
            yield Fault(what, "recipe", f"add {at}.field=uid")
        for name in ("column", "field"):
            if getattr(self, name) and not self.file:
                do = f"give {at}.file, or remove it"
                yield Fault(f"`{at}.{name}` is not used: `{at}.file` is empty", "recipe", do)


@dataclass(frozen=True, kw_only=True)
class ResizeConfig:
    """Re-encode large images; by default every byte stays as it is."""

    # images with a longer shorter side are resized to it and encoded again, pixels after the
    # rotation by EXIF; others keep their bytes; 0: none is touched
    short_side: NonNegativeInt = 0
    quality: Annotated[int, Range(1, 95)] = 90  # of JPEG and WebP
    format: Literal["jpeg", "png", "webp"] = "jpeg"  # of what is encoded again


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """All keys of ``dinoforge shard``."""

    LAUNCH_KEYS: ClassVar[tuple[str, ...]] = ("out", "publish", "verify")  # see `dinoforge.runs`

    out: PathText = "runs/shards"  # run folder; the shards are in `shards` inside
    # images, folders, tars, globs, `x-{000000..000004}.tar`, curation runs; relative to
    # `data.root`. Or their URLs: file://, s3://, gs://, hf://. Or a tar that is read once:
    # `pipe:COMMAND`, or - for standard input. Of several the samples follow each other
    sources: list[SourceText] = field(default_factory=list)
    data: DataConfig = field(default_factory=DataConfig)
    ids: IdsConfig = field(default_factory=IdsConfig)
    name: FileName = "shard"  # shards are named NAME-000000.tar
    shard_images: PositiveInt = 10_000  # samples per shard
    shard_mib: PositiveInt = 512  # maximum size of a shard, MiB; a larger sample is one alone
    # listed: in the order of the sources; random: one order for all samples, keyed by `seed`
    order: Literal["listed", "random"] = "listed"
    seed: int = 0  # keys the random order
    # keys that several samples have. refuse: an error names them; rename: all but the first get a
    # number, KEY-2
    repeated_keys: Literal["refuse", "rename"] = "refuse"
    # keep: images in class folders get a `.cls`, and the list of classes is written beside the
    # shards; sources that number classes differently are refused. ignore: members travel as they
    # are, without a list
    classes: Literal["keep", "ignore"] = "keep"
    resize: ResizeConfig = field(default_factory=ResizeConfig)
    decode: DecodePolicy = field(default_factory=DecodePolicy)  # of what is encoded again
    # decode every image, and count by reason those that do not; they stay in the shards
    check: bool = False
    sidecar: bool = True  # a Parquet table beside each shard: one row per sample
    # read all shards again and compare every checksum
    verify: bool = False
    publish: PublishConfig = field(default_factory=PublishConfig)
    # source bytes per partition of `index` and `scatter`, MiB
    partition_mib: PositiveInt = 128

    def faults(self, at: str) -> Iterator[Fault]:  # noqa: ARG002 - the root has no name
        """Find a command without sources, and URLs that cannot be read."""
        if not self.sources:
            do = "name folders, images or tars: dinoforge shard FOLDER out=RUN"
            yield Fault("no sources", "`sources`", do)
        yield from url_faults("sources", self.sources, streams=True)
