"""Leaks: pool images that show what a reference image shows, per reference set.

Seeds are judged too (a leaked seed is neither exported nor asked for neighbors); ``as_is``
images are judged and reported but kept, that is what the role says.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation.facts import hash_column, read_facts
from dinoforge.curation.index import read_index
from dinoforge.curation.policies.leaks import Leaks, find_leaks
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.curation.stages.exact import read_content
from dinoforge.curation.stages.filter import read_screened
from dinoforge.curation.stages.graph import read_pairs
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["LEAKS_SCHEMA", "DecontaminateStage"]

LEAKS_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("reference_id", pa.int64()),  # -1: leaks only through its component
        ("similarity", pa.float32()),  # NaN: leaks only through its component
    ]
)


class DecontaminateStage(CurationStage):
    """Find the images that leak a reference image."""

    name = "decontaminate"
    number = 60
    keys = ("decontaminate",)
    needs = ("ingest", "plant", "filter", "screen", "exact", "graph")

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Apply the threshold by both readings; the recipe's decides."""
        policy = inputs.config.decontaminate
        screened = read_screened(inputs)
        is_reference = screened.role == ROLES.index("reference")
        content = read_content(inputs)
        pairs = concat_pairs([read_pairs(inputs), _same_pixels(inputs, content, is_reference)])
        direct, by_component = find_leaks(pairs, is_reference, policy.threshold)
        chosen = direct if policy.reading == "direct" else by_component
        table = _images(chosen, content, is_reference, screened.reason < 0)
        out.write_table("leaks", table, LEAKS_SCHEMA)
        return {
            "images": table.num_rows,
            "images_direct": _num_images(direct, content, is_reference),
            "images_by_component": _num_images(by_component, content, is_reference),
            "references": _per_reference_set(inputs, pairs, content, policy.threshold),
        }


def _same_pixels(
    inputs: CurationInputs, content: NDArray[np.int64], is_reference: NDArray[np.bool_]
) -> Pairs:
    """Pairs of contents on both sides with equal pixels: flat images are not in the join."""
    facts = read_facts(inputs, ["pixels_sha256", "width"])
    first = (content == np.arange(len(content))) & (facts.column("width").to_numpy() > 0)
    hashes = hash_column(facts, "pixels_sha256")
    images, references = np.flatnonzero(first & ~is_reference), np.flatnonzero(first & is_reference)
    _, at_image, at_reference = np.intersect1d(
        hashes[images], hashes[references], assume_unique=True, return_indices=True
    )
    i, j = images[at_image], references[at_reference]
    ones = np.ones(len(i), np.float32)
    return Pairs(np.minimum(i, j), np.maximum(i, j), ones)


def _images(
    leaks: Leaks,
    content: NDArray[np.int64],
    is_reference: NDArray[np.bool_],
    admitted: NDArray[np.bool_],
) -> pa.Table:
    """Carry leaks of contents to the admitted images that have them."""
    ids = np.flatnonzero(admitted & ~is_reference & np.isin(content, leaks.content))
    at = np.searchsorted(leaks.content, content[ids])
    return pa.table([ids, leaks.reference[at], leaks.similarity[at]], schema=LEAKS_SCHEMA)


def _num_images(leaks: Leaks, content: NDArray[np.int64], is_reference: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(np.isin(content, leaks.content) & ~is_reference))


def _per_reference_set(
    inputs: CurationInputs, pairs: Pairs, content: NDArray[np.int64], threshold: float
) -> dict[str, dict[str, int]]:
    """Per reference source: its images, how many are hit, how many contents hit them."""
    index = read_index(inputs, ["role", "source"])
    role, source = index.column("role"), index.column("source")
    near = pairs.above(threshold)
    report: dict[str, dict[str, int]] = {}
    for name in sorted(pc.unique(source.filter(pc.equal(role, "reference"))).to_pylist()):
        mine = pc.and_(pc.equal(role, "reference"), pc.equal(source, name))
        is_mine = mine.to_numpy(zero_copy_only=False)
        contents = np.unique(content[is_mine])
        is_content = np.zeros(len(content), np.bool_)
        is_content[contents] = True
        ends = [(near.i, near.j), (near.j, near.i)]
        hit = np.unique(np.concatenate([a[is_content[a]] for a, _ in ends]))
        by = np.unique(np.concatenate([b[is_content[a]] for a, b in ends]))
        report[name] = {
            "images": int(is_mine.sum()),
            "images_hit": int(np.count_nonzero(np.isin(content[is_mine], hit))),
            "hit_by": len(by),
        }
    return report
