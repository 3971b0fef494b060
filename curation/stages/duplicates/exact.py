"""Exact duplicates first: the same decoded pixels are one content, compared once.

A thousand copies of one file would be half a million pairs of a similarity join, but are one
content. The same bytes give the same pixels.
"""

import numpy as np
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation import tables
from dinoforge.curation.stored.generations import first_id, of_every_generation
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["ExactStage", "content_of"]


class ExactStage(CurationStage):
    """Number the contents and list those that the similarity join has to compare."""

    name = "exact"
    number = 35
    keys = ("duplicates.flat_std",)
    execution_keys = ("base",)
    needs = ("ingest", "plant", "inspect")

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Group by pixels, references apart from all others; write the rows of this run."""
        roles = of_every_generation(inputs, tables.read_roles)
        is_reference = roles == ROLES.index("reference")
        hashes = tables.read_hashes(inputs, "pixels_sha256")
        decodes = of_every_generation(inputs, tables.read_decodable)
        content = content_of(hashes, is_reference, decodes)
        start = first_id(inputs)
        ids = np.arange(start, len(content))
        content, is_reference = content[start:], is_reference[start:]
        first = decodes[start:] & (content == ids)
        std = tables.read_facts(inputs, ["std"]).column("std").to_numpy()
        flat = std < inputs.config.duplicates.flat_std
        images = ids[first & ~flat & ~is_reference]
        references = ids[first & ~flat & is_reference]
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
