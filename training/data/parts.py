"""The images of a training: paths, or parts of a mixture with weights."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from dinoforge.config.paths import OptionalPath, SourceText
from dinoforge.config.ranges import Allowed, Fraction, NonNegativeFloat, NonNegativeInt
from dinoforge.errors import Fault
from dinoforge.remote.urls import url_faults

__all__ = ["DataConfig", "PartConfig"]

PartName = Annotated[str, Allowed(re.compile(r"[\w-]*").fullmatch, "letters, digits, - and _")]


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """A part of a mixture, passed through in an order of its own."""

    name: PartName = ""  # in metrics and reports; of a `run`: this part of it, "": all others
    # folders, tars, globs, or a curation run (its shards); relative to the working directory. Or
    # their URLs: file://, s3://, gs://, hf://
    paths: list[SourceText] = field(default_factory=list)
    # instead of `paths`: a curation run with `export.parts`, which lists its parts
    run: OptionalPath = ""
    # images of this part per step, in the long run, relative to the weights of the others; 0: none.
    # Several parts of a `run` share it by the weights that they have there
    weight: NonNegativeFloat = 1.0
    # homogeneous: all images of a step are of this part; heterogeneous: they are mixed with those
    # of the other heterogeneous parts
    batches: Literal["homogeneous", "heterogeneous"] = "heterogeneous"

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a part without images or a name, and URLs that cannot be read."""
        yield from url_faults(f"{at}.paths", self.paths)
        if self.run and self.paths:
            yield Fault(f"`{at}.run` and `{at}.paths` are both given", "recipe", "remove one")
        if not self.run and not self.name:
            yield Fault(f"`{at}.name` is ''", "recipe", "give letters, digits, - and _")
        if not self.run and not self.paths:
            do = f"give at least one, or a curation: {at}.run"
            yield Fault(f"`{at}.paths` is empty", "recipe", do)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images to train on; labels are never read."""

    # folders, tars, globs, or a curation run (its shards); relative to the working directory. Or
    # their URLs: file://, s3://, gs://, hf://
    paths: list[SourceText] = field(default_factory=list)
    # instead of `paths`: several sets of images with weights
    parts: list[PartConfig] = field(default_factory=list)
    num_workers: NonNegativeInt = 0  # processes that decode and crop; batches do not depend on it
    # resize larger images once, after decoding, to this shorter side in pixels, so that photographs
    # of many megapixels fit the cache and are cropped fast; 0: never
    max_side: NonNegativeInt = 0
    # keep decoded images in memory; auto: if all of them fit in cache_mib
    cache: Literal["auto", "decoded", "none"] = "auto"
    cache_mib: NonNegativeInt = 1024  # memory for decoded images under cache=auto, MiB
    # stop if more than this share of the images is undecodable, and more than ten (each one is
    # replaced by the next image and counted)
    max_bad_share: Fraction = 0.01

    @property
    def mixture(self) -> Sequence[PartConfig]:
        """The parts; `paths` alone are one, without a name."""
        return self.parts or [PartConfig(name="", paths=self.paths)]

    @property
    def all_paths(self) -> list[str]:
        """Paths of all parts."""
        return [path for part in self.mixture for path in part.paths]

    def faults(self, at: str) -> Iterator[Fault]:
        """Find no images or two mixtures, names that repeat, weights that sum to 0, bad URLs."""
        yield from url_faults(f"{at}.paths", self.paths)
        if not self.paths and not self.parts:
            yield Fault(f"`{at}.paths` is empty", "recipe", f"give at least one, or {at}.parts")
        if self.paths and self.parts:
            what = f"`{at}.parts` and `{at}.paths` are both given"
            yield Fault(what, "recipe", "remove one of them")
        names = Counter(part.name for part in self.parts if part.name)
        for name in (name for name, count in names.items() if count > 1):
            what = f"`{at}.parts` has {names[name]} parts named {name}"
            yield Fault(what, "recipe", "give each a name of its own")
        if self.parts and not any(part.weight for part in self.parts):
            what = f"`{at}.parts` has no weight above 0"
            yield Fault(what, "recipe", "give at least one of them a weight")
