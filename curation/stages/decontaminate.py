"""Leaks: images that show what a reference image shows, per reference set.

Seeds are checked too (a leaked seed is neither exported nor used for retrieval); ``as_is`` images
are checked and reported but kept, as the role demands. So are images of the base that leak a new
reference: the base does not change.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.policies.leaks import Leaks, find_leaks, nearest_references, pairs_to_show
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.curation.stored.generations import first_id, of_every_generation
from dinoforge.curation.stored.links import LINK_KEYS, LINK_STAGES, read_strengths
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["DecontaminateStage"]


class DecontaminateStage(CurationStage):
    """Find the images that leak a reference image."""

    name = "decontaminate"
    number = 60
    version = "1.3.0"
    keys = ("decontaminate", *LINK_KEYS)
    execution_keys = ("base",)
    execution_keys = ("base",)
    needs = ("ingest", "plant", "inspect", "filter", *LINK_STAGES)

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Apply the threshold by both readings; the recipe's decides."""
        policy = inputs.config.decontaminate
        screened, content = tables.read_all_screened(inputs), tables.read_content(inputs)
        is_reference = screened.role == ROLES.index("reference")
        stored, is_link = read_strengths(inputs, policy.threshold)
        links = concat_pairs([stored.where(is_link), _same_pixels(inputs, content, is_reference)])
        is_new = np.arange(len(content)) >= first_id(inputs)
        graph = _Graph(links, stored.where(~is_link), content, is_reference, is_new)
        direct, by_component = find_leaks(links, is_reference)
        leaks = direct if policy.reading == "direct" else by_component
        admitted = screened.reason < 0
        num = _write(out, "leaks", leaks, content, np.flatnonzero(graph.is_counted & admitted))
        in_base = admitted & ~is_reference & ~graph.is_new
        leaks_of_new = find_leaks(links, is_reference, in_set=graph.new_references())
        leaks = leaks_of_new[0 if policy.reading == "direct" else 1]
        num_base = _write(out, "base_leaks", leaks, content, np.flatnonzero(in_base))
        return {
            "images": num,
            "images_direct": graph.count(direct),
            "images_by_component": graph.count(by_component),
            "base_images": num_base,
            "references": _per_reference_set(inputs, graph),
        }


@dataclass(frozen=True)
class _Graph:
    """Pairs of contents; contents and sides by image id, earlier generations included."""

    links: Pairs
    misses: Pairs
    content: NDArray[np.int64]
    is_reference: NDArray[np.bool_]
    is_new: NDArray[np.bool_]  # an image of this run

    @property
    def is_counted(self) -> NDArray[np.bool_]:
        """Return which images may leak: those of this run."""
        return self.is_new & ~self.is_reference

    def new_references(self) -> NDArray[np.bool_]:
        """Return which contents are those of references of this run."""
        return self.contents_of(np.flatnonzero(self.is_new & self.is_reference))

    def contents_of(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which contents images have."""
        mask = np.zeros(len(self.content), np.bool_)
        mask[self.content[ids]] = True
        return mask

    def count(self, leaks: Leaks) -> int:
        """Count the images of this run whose content leaks."""
        return int(np.count_nonzero(np.isin(self.content, leaks.content) & self.is_counted))


def _write(
    out: Output, name: str, leaks: Leaks, content: NDArray[np.int64], ids: NDArray[np.int64]
) -> int:
    """Write those of the images ``ids`` whose content leaks; returns their number."""
    ids = ids[np.isin(content[ids], leaks.content)]
    at = np.searchsorted(leaks.content, content[ids])
    columns = [ids, leaks.reference[at], leaks.similarity[at]]
    out.write_table(name, columns, tables.LEAKS_SCHEMA)
    return len(ids)


def _same_pixels(
    inputs: CurationInputs, content: NDArray[np.int64], is_reference: NDArray[np.bool_]
) -> Pairs:
    """Return pairs of contents on both sides with equal pixels: the join leaves flat images out."""
    hashes = tables.read_hashes(inputs, "pixels_sha256")
    decodes = of_every_generation(inputs, tables.read_decodable)
    first = (content == np.arange(len(content))) & decodes
    images, references = np.flatnonzero(first & ~is_reference), np.flatnonzero(first & is_reference)
    _, at_image, at_reference = np.intersect1d(
        hashes[images], hashes[references], assume_unique=True, return_indices=True
    )
    i, j = images[at_image], references[at_reference]
    return Pairs(np.minimum(i, j), np.maximum(i, j), np.ones(len(i), np.float32))


def _per_reference_set(inputs: CurationInputs, graph: _Graph) -> dict[str, Json]:
    """Report per reference source: its images, how many are hit, by what, and pairs to look at.

    Both readings count the images of all contents that leak, also those that the filter or the
    duplicates drop.
    """
    content, is_reference = graph.content, graph.is_reference
    counted = np.flatnonzero(graph.is_counted)
    is_counted = graph.contents_of(counted)
    touching = [
        pairs.where(is_counted[pairs.i] | is_counted[pairs.j])
        for pairs in (graph.links, graph.misses)
    ]
    hit, _, _ = touching[0].both_ways()
    source = tables.read_source_names(inputs)
    report: dict[str, Json] = {}
    for name in sorted(pc.unique(source.filter(pa.array(is_reference))).to_pylist()):
        is_named = pc.equal(source, name).to_numpy(zero_copy_only=False)
        ids = np.flatnonzero(is_reference & is_named)
        in_set = graph.contents_of(ids)
        direct, by_component = find_leaks(graph.links, is_reference, in_set=in_set)
        nearest, misses = (nearest_references(pairs, is_reference, in_set) for pairs in touching)
        report[name] = {
            "images": len(ids),
            "images_hit": int(np.count_nonzero(np.isin(content[ids], hit))),
            "hit_by": len(nearest.content),
            "images_direct": graph.count(direct),
            "images_by_component": graph.count(by_component),
            "pairs": _pairs_to_show(nearest, misses, content, (counted, ids)),
        }
    return report


def _pairs_to_show(
    direct: Leaks,
    misses: Leaks,
    content: NDArray[np.int64],
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> list[Json]:
    """Name pairs by the first image of each side that has the content."""
    shown = []
    for closest, rows in zip((direct, misses), pairs_to_show(direct, misses), strict=True):
        images = _first_images(content, sides[0], closest.content[rows])
        references = _first_images(content, sides[1], closest.reference[rows])
        columns = (images, references, closest.similarity[rows])
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


def _first_images(
    content: NDArray[np.int64], ids: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the first of the images ``ids`` of each wanted content."""
    contents, first = np.unique(content[ids], return_index=True)
    return ids[first][np.searchsorted(contents, wanted)]
