"""Exact duplicates first: the same decoded pixels are one content, compared once.

A thousand copies of one file would be half a million pairs of a similarity join, but are one
content. The same bytes give the same pixels.
"""

import numpy as np
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["ExactStage", "content_of"]


class ExactStage(CurationStage):
    """Number the contents and list those that the similarity join has to compare."""

    name = "exact"
    number = 35
    keys = ("duplicates.flat_std",)
    needs = ("ingest", "plant", "inspect")

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Group by pixels, references apart from all others."""
        facts = tables.read_facts(inputs, ["pixels_sha256", "width", "std"])
        decodes = facts.column("width").to_numpy() > 0
        flat = facts.column("std").to_numpy() < inputs.config.duplicates.flat_std
        is_reference = tables.read_roles(inputs) == ROLES.index("reference")
        content = content_of(tables.hash_column(facts, "pixels_sha256"), is_reference, decodes)
        first = decodes & (content == np.arange(len(content)))
        images = np.flatnonzero(first & ~flat & ~is_reference)
        references = np.flatnonzero(first & ~flat & is_reference)
        out.write_array("content", content)
        out.write_array("images", images)
        out.write_array("references", references)
        return {
            "images": len(content),
            "contents": int(np.count_nonzero(first)),
            "flat_contents": int(np.count_nonzero(first & flat)),
            "joined_images": len(images),
            "joined_references": len(references),
        }


def content_of(
    hashes: NDArray[np.void], is_reference: NDArray[np.bool_], decodes: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the smallest id with the same hash and side per image; its own id if undecodable."""
    content = np.arange(len(hashes), dtype=np.int64)
    for side in (is_reference, ~is_reference):
        rows = np.flatnonzero(side & decodes)
        # Ids ascend, so the first row of a hash is the smallest.
        _, first, inverse = np.unique(hashes[rows], return_index=True, return_inverse=True)
        content[rows] = rows[first][inverse.reshape(-1)]
    return content
