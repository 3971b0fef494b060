"""Leaks: images that show what a reference image shows, per reference set.

Seeds are checked too (a leaked seed is neither exported nor used for retrieval); ``as_is`` images
are checked and reported but kept, as the role demands.
"""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.policies.leaks import Leaks, find_leaks, nearest_references, pairs_to_show
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.curation.stored.links import LINK_KEYS, LINK_STAGES, read_strengths
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["DecontaminateStage"]


class DecontaminateStage(CurationStage):
    """Find the images that leak a reference image."""

    name = "decontaminate"
    number = 60
    version = "1.2.0"
    keys = ("decontaminate", *LINK_KEYS)
    needs = ("ingest", "plant", "inspect", "filter", *LINK_STAGES)

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Apply the threshold by both readings; the recipe's decides."""
        policy = inputs.config.decontaminate
        screened, content = tables.read_screened(inputs), tables.read_content(inputs)
        is_reference = screened.role == ROLES.index("reference")
        stored, is_link = read_strengths(inputs, policy.threshold)
        same_pixels = _same_pixels(inputs, content, is_reference)
        links = concat_pairs([stored.where(is_link), same_pixels])
        misses = stored.where(~is_link)
        direct, by_component = find_leaks(links, is_reference)
        leaks = direct if policy.reading == "direct" else by_component
        # From contents to the admitted images that have them.
        ids = np.flatnonzero(
            (screened.reason < 0) & ~is_reference & np.isin(content, leaks.content)
        )
        at = np.searchsorted(leaks.content, content[ids])
        columns = [ids, leaks.reference[at], leaks.similarity[at]]
        out.write_table("leaks", columns, tables.LEAKS_SCHEMA)

        return {
            "images": len(ids),
            "images_direct": _num_images(direct, content, is_reference),
            "images_by_component": _num_images(by_component, content, is_reference),
            "references": _per_reference_set(inputs, links, misses, content, is_reference),
        }


def _num_images(leaks: Leaks, content: NDArray[np.int64], is_reference: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(np.isin(content, leaks.content) & ~is_reference))


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
    inputs: CurationInputs,
    links: Pairs,
    misses: Pairs,
    content: NDArray[np.int64],
    is_reference: NDArray[np.bool_],
) -> dict[str, Json]:
    """Report per reference source: its images, how many are hit, by what, and pairs to look at.

    Both readings count the images of all contents that leak, also those that the filter or the
    duplicates drop.
    """
    index = tables.read_index(inputs, ["role", "source"])
    sources = index.filter(pc.equal(index.column("role"), "reference")).column("source")
    report: dict[str, Json] = {}
    for name in sorted(pc.unique(sources).to_pylist()):
        is_named = pc.equal(index.column("source"), name).to_numpy(zero_copy_only=False)
        ids = np.flatnonzero(is_reference & is_named)
        in_set = np.zeros(len(content), np.bool_)
        in_set[content[ids]] = True
        direct, by_component = find_leaks(links, is_reference, in_set=in_set)
        hit, _, _ = links.both_ways()
        report[name] = {
            "images": len(ids),
            "images_hit": int(np.count_nonzero(np.isin(content[ids], hit))),
            "hit_by": len(direct.content),
            "images_direct": _num_images(direct, content, is_reference),
            "images_by_component": _num_images(by_component, content, is_reference),
            "pairs": _pairs_to_show(
                direct, nearest_references(misses, is_reference, in_set), content[ids], ids
            ),
        }
    return report


def _pairs_to_show(
    direct: Leaks, misses: Leaks, set_content: NDArray[np.int64], ids: NDArray[np.int64]
) -> list[Json]:
    """Name pairs by image: a content may belong to images of several sets."""
    contents, first = np.unique(set_content, return_index=True)
    shown = []
    sides = (direct, misses)
    for closest, rows in zip(sides, pairs_to_show(*sides), strict=True):
        references = ids[first][np.searchsorted(contents, closest.reference[rows])]
        columns = (closest.content[rows], references, closest.similarity[rows])
        shown += [
            {
                "image_id": image,
                "reference_id": reference,
                "similarity": round(similarity, 6),
                "is_leak": closest is direct,
            }
            for image, reference, similarity in zip(*(c.tolist() for c in columns), strict=True)
        ]
    return shown
