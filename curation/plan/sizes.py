"""The numbers that a plan is a function of: images by role, what is left of them, pairs, shards.

How many images are dropped is known only afterwards. A plan assumes that none is, so it is an upper
bound; of images that near-duplicates, leaks or the filter take away later stages need less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dinoforge.curation.config import CurationConfig
from dinoforge.curation.plan.encoders import PlannedEncoder, plan_encoder
from dinoforge.curation.policies.joins import choose_cells
from dinoforge.curation.retrieve_config import RuleConfig
from dinoforge.curation.stored.seed_sets import every_rule, searched_sets
from dinoforge.errors import UsageError
from dinoforge.models.config import VitConfig
from dinoforge.verification.features import MIN_SHORT_SIDE

__all__ = ["Images", "Sizes"]

# Candidate pairs of the best votes of n pictures, as a share of n x votes: a pair that both propose
# counts once. 1,800 photographs of clothing and 1,000 of ImageNet (2026-11-30): 0.70, 0.70; and
# 0.87 between images and references, which are further apart.
_VOTED, _VOTED_ACROSS = 0.70, 0.87
# Pairs of the nearest embeddings that no vote proposes, as a share of those proposed.
_NEAREST = 0.76


@dataclass(frozen=True, kw_only=True)
class Images:
    """The input of a curation, which need not exist yet; sizes are means per image."""

    pool: int
    seeds: Mapping[str, int] = field(default_factory=dict)  # by name of the source
    references: Mapping[str, int] = field(default_factory=dict)  # by name of the source
    as_is: Mapping[str, int] = field(default_factory=dict)  # by name of the source
    file_bytes: float = 110_000.0  # ImageNet's
    pixels: float = 395 * 471  # ImageNet's
    key_bytes: float = (
        32.0  # of a key in a compressed table: random names; numbers take almost none
    )
    side_rows: int = 0  # of `side.tables`; 0: one per image
    side_columns: int = 20  # of these that an image gets


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of a recipe applied to so many images, before the first one is read."""

    config: CurationConfig
    images: Images
    model: VitConfig | None = None  # in place of the encoder for retrieval

    def __post_init__(self) -> None:
        for rule in self.rules:
            if not self.seeds_of(rule.seeds) and not self.images.references.get(rule.seeds):
                name = rule.seeds or "seed"
                do = f"give --images pool=N,{name}=N"
                raise UsageError(what=f"no number of images of `{name}`", where="--images", do=do)

    @cached_property
    def rules(self) -> Sequence[RuleConfig]:
        """Rules of the retrieval, if there is one."""
        policy = self.config.retrieve
        return every_rule(policy) if policy.mode == "seeds" else ()

    @cached_property
    def searched(self) -> Mapping[str, int]:
        """Neighbors per seed that are searched, by seed set."""
        return searched_sets(self.config.retrieve) if self.rules else {}

    def seeds_of(self, name: str) -> int:
        """Return the seeds of a set, which images of role as_is may be; "": all of role seed."""
        images = self.images
        if not name:
            return sum(images.seeds.values())
        return images.seeds.get(name, 0) + images.as_is.get(name, 0)

    @property
    def as_is(self) -> int:
        """Images that are kept as they are."""
        return sum(self.images.as_is.values())

    def retrieved_by(self, rule: RuleConfig) -> int:
        """Return how many slots a rule grants at most."""
        if rule.mode == "exclude":
            return 0
        seeds = self.seeds_of(rule.seeds)
        slots = seeds * rule.k
        if rule.mode == "cluster":
            with_seeds = min(seeds // rule.min_seeds, self.config.retrieve.clusters)
            slots = min(with_seeds * rule.per_cluster, self.pool)
        elif rule.policy != "multiset":
            slots = min(slots, self.pool)
        return min(slots, rule.cap or slots)

    @cached_property
    def planted(self) -> int:
        """Copies that are planted."""
        plant = self.config.plant
        return plant.num_copies(self.images.pool) if plant.count else 0

    @property
    def references(self) -> int:
        """Images that are only compared with."""
        return sum(self.images.references.values())

    @cached_property
    def compared(self) -> int:
        """Images that are compared with each other and with the references."""
        return self.images.pool + self.seeds_of("") + self.as_is + self.planted

    @property
    def total(self) -> int:
        """Rows of the index."""
        return self.compared + self.references

    @cached_property
    def pool(self) -> int:
        """Images that are retrieved from, or balanced."""
        return self.images.pool + self.planted

    @cached_property
    def encoder(self) -> PlannedEncoder:
        """Encoder that measures "same picture"."""
        return plan_encoder(self.config.duplicates.encoder)

    @cached_property
    def meaning(self) -> PlannedEncoder | None:
        """Encoder that measures "similar content", if it is another one that is needed."""
        config = self.config
        needed = config.retrieve.mode == "seeds" or config.balance.target > 0
        other = config.retrieve.encoder
        if not needed or not (self.model or other) or other == config.duplicates.encoder:
            return None
        return plan_encoder(other, self.model)

    @property
    def retrieval_dim(self) -> int:
        """Dimensions of the embeddings that measure "similar content"."""
        return (self.meaning or self.encoder).dim

    @cached_property
    def cells(self) -> int:
        """Cells of the join; 0: all images are compared."""
        policy = self.config.duplicates
        if not self.compared:
            return 0
        r = policy.cells_per_image
        return choose_cells(
            self.compared, self.encoder.dim, policy.join, num_cells=policy.cells, r=r
        )

    @cached_property
    def voting(self) -> tuple[int, int]:
        """Pictures whose pixels are compared, images and references."""
        if self.config.duplicates.verify.mode == "none" or self.images.pixels < MIN_SHORT_SIDE**2:
            return 0, 0
        return self.compared, self.references

    @cached_property
    def candidate_pairs(self) -> int:
        """Pairs that are compared on their pixels."""
        images, references = self.voting
        across = images + references if references else 0
        policy = self.config.duplicates.verify
        voted = policy.votes * (_VOTED * images + _VOTED_ACROSS * across)
        return round(voted + _NEAREST * policy.nearest * (images + across))

    @cached_property
    def exported(self) -> int:
        """Files in the shards."""
        retrieve, left = self.config.retrieve, self.pool
        if self.rules and retrieve.keep == "retrieved":
            left = sum(map(self.retrieved_by, self.rules))
            if all(rule.policy != "multiset" for rule in self.rules):
                left = min(left, self.pool)
        elif self.config.balance.target:
            left = min(self.config.balance.target, self.pool)
        seeds = self.seeds_of("") - sum(map(self.seeds_of, retrieve.drop_seeds))
        return left + self.as_is + seeds * retrieve.keep_seeds

    @cached_property
    def shards(self) -> int:
        """Shards of the export."""
        policy = self.config.export
        by_size = int((policy.shard_mib << 20) // (blocks(self.images.file_bytes) + 3 * 1024))
        return -(-self.exported // max(1, min(policy.shard_images, by_size)))


def blocks(file_bytes: float) -> float:
    """Return the mean bytes of a file in a tar, where files are padded to blocks of 512 bytes."""
    return file_bytes + 256
