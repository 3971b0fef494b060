"""Leaks: images that show what a reference image shows, per reference set.

Seeds are checked too (a leaked seed is neither exported nor used for retrieval); ``as_is`` images
are checked and reported but kept, as the role demands. So are images of the base that leak a new
reference: the base does not change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
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

_BLOCK_ROWS = 1 << 24


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
        is_new = np.zeros(len(content), np.bool_)
        is_new[first_id(inputs) :] = True
        graph = _Graph(links, stored.where(~is_link), content, is_reference, is_new)
        direct, by_component = find_leaks(links, is_reference)
        leaks = direct if policy.reading == "direct" else by_component
        admitted = screened.reason < 0
        num = _write(out, "leaks", leaks, graph, graph.is_counted & admitted)
        in_base = admitted & ~is_reference & ~graph.is_new
        leaks_of_new = find_leaks(links, is_reference, in_set=graph.new_references())
        leaks = leaks_of_new[0 if policy.reading == "direct" else 1]
        num_base = _write(out, "base_leaks", leaks, graph, in_base)
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
        return self.contents_of(self.is_new & self.is_reference)

    def contents_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which contents the chosen images have."""
        mask = np.zeros(len(self.content), np.bool_)
        for rows in _blocks(len(mask)):
            mask[self.content[rows][chosen[rows]]] = True
        return mask

    def images_of(
        self, contents: NDArray[np.int64], chosen: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return the chosen images that have one of some contents."""
        mask = np.zeros(len(self.content), np.bool_)
        mask[contents] = True
        ids = [
            rows.start + np.flatnonzero(chosen[rows] & mask[self.content[rows]])
            for rows in _blocks(len(mask))
        ]
        return np.concatenate([np.zeros(0, np.int64), *ids])

    def count(self, leaks: Leaks) -> int:
        """Count the images of this run whose content leaks."""
        return len(self.images_of(leaks.content, self.is_counted))


def _blocks(num: int) -> Iterator[slice]:
    """Cut rows of all images into blocks: what is computed of them is not in memory at once."""
    for start in range(0, num, _BLOCK_ROWS):
        yield slice(start, min(start + _BLOCK_ROWS, num))


def _write(out: Output, name: str, leaks: Leaks, graph: _Graph, chosen: NDArray[np.bool_]) -> int:
    """Write those of the chosen images whose content leaks; returns their number."""
    ids = graph.images_of(leaks.content, chosen)
    at = np.searchsorted(leaks.content, graph.content[ids])
    columns = [ids, leaks.reference[at], leaks.similarity[at]]
    out.write_table(name, columns, tables.LEAKS_SCHEMA)
    return len(ids)


def _same_pixels(
    inputs: CurationInputs, content: NDArray[np.int64], is_reference: NDArray[np.bool_]
) -> Pairs:
    """Return pairs of contents on both sides with equal pixels: the join leaves flat images out."""
    decodes = of_every_generation(inputs, tables.read_decodable)
    references, hashes = _hashes_of(inputs, content, is_reference & decodes, None)
    images, alike = _hashes_of(inputs, content, ~is_reference & decodes, hashes)
    _, at_image, at_reference = np.intersect1d(
        alike, hashes, assume_unique=True, return_indices=True
    )
    i, j = images[at_image], references[at_reference]
    return Pairs(np.minimum(i, j), np.maximum(i, j), np.ones(len(i), np.float32))


def _hashes_of(
    inputs: CurationInputs,
    content: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    wanted: NDArray[np.void] | None,
) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """Return the contents of the chosen images and the hashes of their pixels.

    Of ``wanted``, if given: those whose hash begins like one of these.
    """
    starts = None if wanted is None else np.sort(_starts(wanted))
    ids, hashes, at = [np.zeros(0, np.int64)], [np.zeros(0, "V32")], 0
    for block in tables.iter_hashes(inputs, "pixels_sha256"):
        rows = slice(at, at := at + len(block))
        mask = chosen[rows] & (content[rows] == np.arange(rows.start, rows.stop))
        if starts is not None:
            mask &= np.isin(_starts(block), starts)
        ids.append(rows.start + np.flatnonzero(mask))
        hashes.append(block[mask])
    return np.concatenate(ids), np.concatenate(hashes)


def _starts(hashes: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of hashes."""
    return hashes.view(np.uint64).reshape(-1, 4)[:, 0]


def _per_reference_set(inputs: CurationInputs, graph: _Graph) -> dict[str, Json]:
    """Report per reference source: its images, how many are hit, by what, and pairs to look at.

    Both readings count the images of all contents that leak, also those that the filter or the
    duplicates drop.
    """
    is_reference = graph.is_reference
    is_counted = graph.contents_of(graph.is_counted)
    touching = [
        pairs.where(is_counted[pairs.i] | is_counted[pairs.j])
        for pairs in (graph.links, graph.misses)
    ]
    hit, _, _ = touching[0].both_ways()
    names, source = tables.read_source_codes(inputs)
    used = np.unique(source[is_reference]).tolist()
    report: dict[str, Json] = {}
    for code in sorted(used, key=lambda code: names[code]):
        of_set = is_reference & (source == code)
        in_set = graph.contents_of(of_set)
        direct, by_component = find_leaks(graph.links, is_reference, in_set=in_set)
        nearest, misses = (nearest_references(pairs, is_reference, in_set) for pairs in touching)
        report[names[code]] = {
            "images": int(np.count_nonzero(of_set)),
            "images_hit": len(graph.images_of(hit, of_set)),
            "hit_by": len(nearest.content),
            "images_direct": graph.count(direct),
            "images_by_component": graph.count(by_component),
            "pairs": _pairs_to_show(nearest, misses, graph, of_set),
        }
    return report


def _pairs_to_show(
    direct: Leaks, misses: Leaks, graph: _Graph, of_set: NDArray[np.bool_]
) -> list[Json]:
    """Name pairs by the first image of each side that has the content."""
    shown = []
    for closest, rows in zip((direct, misses), pairs_to_show(direct, misses), strict=True):
        images = _first_images(graph, graph.is_counted, closest.content[rows])
        references = _first_images(graph, of_set, closest.reference[rows])
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
    graph: _Graph, chosen: NDArray[np.bool_], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the first of the chosen images of each wanted content."""
    ids = graph.images_of(wanted, chosen)
    contents, first = np.unique(graph.content[ids], return_index=True)
    return ids[first][np.searchsorted(contents, wanted)]
