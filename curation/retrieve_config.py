"""The section `retrieve` of a recipe: one rule for all seeds, or a list of rules per seed set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from dinoforge.config.paths import EncoderSpec
from dinoforge.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from dinoforge.errors import Fault

__all__ = ["RetrieveConfig", "RuleConfig"]

Policy = Literal["multiset", "distinct", "fill"]

_READ_BY = {  # mode -> keys that it reads beside seeds, name and mode
    "sample": ("k", "policy", "cap", "weight"),
    "cluster": ("min_seeds", "per_cluster", "on_small_cluster", "policy", "cap", "weight"),
    "exclude": ("threshold",),
}


@dataclass(frozen=True, kw_only=True)
class RuleConfig:
    """What one seed set retrieves."""

    # name of a source with role seed or as_is (exclude: reference), or of several that share it
    seeds: str = ""
    # in the ledger and the report, unique; keys the draw of the cap; "": the name of the seeds
    name: str = ""
    # sample: the nearest pool images of every seed (DINOv2: for sets of more than 1M images);
    # cluster: random images of the k-means clusters of the pool that seeds are in (smaller sets);
    # exclude: no image that resembles one of a reference source
    mode: Literal["sample", "cluster", "exclude"] = "sample"
    # exclude: cosine to such an image above which pool images are dropped, whatever retrieves them
    threshold: Annotated[float, Range(-1, 1)] = 0.9
    k: PositiveInt = 4  # sample: neighbors per seed (DINOv2: 4, or 32 for ImageNet-1k)
    min_seeds: PositiveInt = 4  # cluster: only clusters with so many seeds (DINOv2: more than 3)
    per_cluster: PositiveInt = 10_000  # cluster: images from each of them (DINOv2: 10,000)
    # cluster: what clusters with fewer images give. all: all they have; skip: none; replace
    # (policy multiset): all they have, and random ones of these again. By the last two, what is
    # retrieved is a multiple of per_cluster, as in table 15 of DINOv2
    on_small_cluster: Literal["all", "skip", "replace"] = "all"
    # as `retrieve.policy`, within this rule: an image is exported once per slot of all multiset
    # rules that retrieved it, at least once
    policy: Policy = "distinct"
    # at most so many slots (multiset) or images, drawn at random from all that the rule retrieved;
    # 0: all
    cap: NonNegativeInt = 0
    # share of this set in training, relative to the other rules; 0: in the shards, but not trained
    weight: NonNegativeFloat = 1.0

    @property
    def label(self) -> str:
        """Name of the rule."""
        return self.name or self.seeds

    @property
    def roles(self) -> Sequence[str]:
        """Roles of the sources that `seeds` may name."""
        return ("reference",) if self.mode == "exclude" else ("seed", "as_is")

    def faults(self, at: str) -> Iterator[Fault]:
        """Find keys that the mode does not read."""
        read = {"seeds", "name", "mode", *_READ_BY[self.mode]}
        for key in fields(self):
            if key.name not in read and getattr(self, key.name) != key.default:
                modes = [mode for mode, keys in _READ_BY.items() if key.name in keys]
                what = f"`{at}.{key.name}` is not used by a rule of mode {self.mode}"
                yield Fault(what, "recipe", f"remove it, or set mode: {' or '.join(modes)}")
        if self.mode == "cluster" and self.policy == "fill":
            what = f"`{at}.policy` is fill: clusters have no next neighbor"
            yield Fault(what, "recipe", "give distinct or multiset")
        elif self.on_small_cluster == "replace" and self.policy != "multiset":
            what = f"`{at}.on_small_cluster` is replace, but `{at}.policy` is {self.policy}"
            yield Fault(what, "recipe", "give policy: multiset, which counts an image repeatedly")

    def num_candidates(self, stored: int) -> int:
        """Return the neighbors per seed that the policy reads; ``stored``: `candidates`, or 0."""
        return stored or (8 * self.k if self.policy == "fill" else self.k)


@dataclass(frozen=True, kw_only=True)
class RetrieveConfig:
    """Retrieve pool images that are similar to the seeds."""

    mode: Literal["none", "seeds"] = "none"  # none: keep all; seeds: neighbors of each seed
    # encoder whose cosine measures similarity in content; "": `duplicates.encoder`
    encoder: EncoderSpec = ""
    k: PositiveInt = 4  # neighbors per seed (DINOv2 section A.4: 4, or 32 for ImageNet-1k)
    # multiset: a pool image counts once per seed that retrieved it; distinct: once; fill: a seed
    # whose neighbor is taken gets the next one, in order of score
    policy: Policy = "distinct"
    # neighbors stored per seed; 0: k, or 8 k for `fill`. If given, k and policy change without a
    # new search
    candidates: NonNegativeInt = 0
    # pool images per partition of search and exclude; each stores the best `candidates` per seed
    partition_images: PositiveInt = 65_536
    # a rule per seed set, in place of k and policy above; an image belongs to the first rule that
    # retrieved it, and all rules count it
    rules: list[RuleConfig] = field(default_factory=list)
    # k-means clusters of the pool for rules of mode cluster (DINOv2: 100,000); with
    # `balance.iterations`, `balance.fit_images` and `balance.block_images`
    clusters: NonNegativeInt = 0
    # retrieved: drop images that no seed retrieved; all: keep them, too
    keep: Literal["retrieved", "all"] = "retrieved"
    # export seeds, too: they replace their duplicates in the pool and are checked for leaks
    keep_seeds: bool = True
    # names of seed sets that are not exported either way: all of their images only retrieve
    drop_seeds: list[str] = field(default_factory=list)

    def faults(self, at: str) -> Iterator[Fault]:
        """Find fewer candidates than neighbors, rules of one name, and no weight at all."""
        largest = max((rule.k for rule in self.rules), default=self.k)
        if 0 < self.candidates < largest:
            text = f"`{at}.candidates` is {self.candidates}"
            yield Fault(text, "recipe", f"give 0, or {at}.k ({largest}) or more")
        if bool(self.clusters) != any(rule.mode == "cluster" for rule in self.rules):
            what = f"`{at}.clusters` is {self.clusters}"
            do = "give the number of clusters for the rule of mode cluster"
            yield Fault(what, "recipe", "add a rule of mode cluster" if self.clusters else do)
        labels = [rule.label for rule in self.rules]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            what = f"`{at}.rules` has {labels.count(label)} rules named `{label}`"
            yield Fault(what, "recipe", "give each of them another name")
        weights = [rule.weight for rule in self.rules if rule.mode != "exclude"]
        if weights and not any(weights):
            what = f"`{at}.rules`: the weight of every rule is 0"
            yield Fault(what, "recipe", "give a rule that is trained a weight above 0")
