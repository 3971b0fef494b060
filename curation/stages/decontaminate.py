"""Leaks: images that show what a reference image shows, per reference set.

Seeds are checked too (a leaked seed is neither exported nor used for retrieval); ``as_is`` images
are checked and reported but kept, as the role demands.
"""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.policies.leaks import Leaks, find_leaks
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["DecontaminateStage"]


class DecontaminateStage(CurationStage):
    """Find the images that leak a reference image."""

    name = "decontaminate"
    number = 60
    keys = ("decontaminate",)
    needs = ("ingest", "plant", "inspect", "filter", "exact", "graph")

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Apply the threshold by both readings; the recipe's decides."""
        policy = inputs.config.decontaminate
        screened, content = tables.read_screened(inputs), tables.read_content(inputs)
        is_reference = screened.role == ROLES.index("reference")
        pairs = concat_pairs(
            [tables.read_pairs(inputs), _same_pixels(inputs, content, is_reference)]
        )
        direct, by_component = find_leaks(pairs, is_reference, policy.threshold)
        leaks = direct if policy.reading == "direct" else by_component
        # From contents to the admitted images that have them.
        ids = np.flatnonzero(
            (screened.reason < 0) & ~is_reference & np.isin(content, leaks.content)
        )
        at = np.searchsorted(leaks.content, content[ids])
        columns = [ids, leaks.reference[at], leaks.similarity[at]]
        out.write_table("leaks", columns, tables.LEAKS_SCHEMA)

        def num_images(leaks: Leaks) -> int:
            return int(np.count_nonzero(np.isin(content, leaks.content) & ~is_reference))

        return {
            "images": len(ids),
            "images_direct": num_images(direct),
            "images_by_component": num_images(by_component),
            "references": _per_reference_set(inputs, pairs.above(policy.threshold), content),
        }


def _same_pixels(
    inputs: CurationInputs, content: NDArray[np.int64], is_reference: NDArray[np.bool_]
) -> Pairs:
    """Return pairs of contents on both sides with equal pixels: the join leaves flat images out."""
    facts = tables.read_facts(inputs, ["pixels_sha256", "width"])
    first = (content == np.arange(len(content))) & (facts.column("width").to_numpy() > 0)
    hashes = tables.hash_column(facts, "pixels_sha256")
    images, references = np.flatnonzero(first & ~is_reference), np.flatnonzero(first & is_reference)
    _, at_image, at_reference = np.intersect1d(
        hashes[images], hashes[references], assume_unique=True, return_indices=True
    )
    i, j = images[at_image], references[at_reference]
    return Pairs(np.minimum(i, j), np.maximum(i, j), np.ones(len(i), np.float32))


def _per_reference_set(
    inputs: CurationInputs, near: Pairs, content: NDArray[np.int64]
) -> dict[str, dict[str, int]]:
    """Count per reference source: its images, how many are hit, how many contents hit them."""
    index = tables.read_index(inputs, ["role", "source"])
    sources = index.filter(pc.equal(index.column("role"), "reference")).column("source")
    report: dict[str, dict[str, int]] = {}
    for name in sorted(pc.unique(sources).to_pylist()):
        in_set = pc.and_(
            pc.equal(index.column("role"), "reference"), pc.equal(index.column("source"), name)
        )
        set_content = content[in_set.to_numpy(zero_copy_only=False)]
        is_content = np.zeros(len(content), np.bool_)
        is_content[set_content] = True
        source, target, _ = near.both_ways()
        touches = is_content[source]
        report[name] = {
            "images": len(set_content),
            "images_hit": int(np.count_nonzero(np.isin(set_content, source[touches]))),
            "hit_by": len(np.unique(target[touches])),
        }
    return report
