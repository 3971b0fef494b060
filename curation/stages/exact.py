"""Exact duplicates first: the same decoded pixels are one content, joined and compared once.

Removes the mass that would fill a similarity join with trivial pairs: a thousand copies of one
file are half a million pairs, but one content. The same bytes give the same pixels.
"""

import numpy as np
from numpy.typing import NDArray

from dinoforge.curated import ROLES
from dinoforge.curation.facts import hash_column, read_facts
from dinoforge.curation.index import read_roles
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output

__all__ = ["ExactStage", "content_of", "read_content"]


class ExactStage(CurationStage):
    """Number the contents and list those that the similarity join has to look at."""

    name = "exact"
    number = 35
    keys = ("duplicates.flat_std",)
    needs = ("ingest", "plant", "filter")

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Group by pixels, apart for references and all others."""
        facts = read_facts(inputs, ["pixels_sha256", "width", "std"])
        decodes = facts.column("width").to_numpy() > 0
        spread = facts.column("std").to_numpy() >= inputs.config.duplicates.flat_std
        is_reference = read_roles(inputs) == ROLES.index("reference")
        content = content_of(hash_column(facts, "pixels_sha256"), is_reference, decodes)
        first = content == np.arange(len(content))
        joined = first & decodes & spread
        out.write_array("content", content)
        out.write_array("images", np.flatnonzero(joined & ~is_reference))
        out.write_array("references", np.flatnonzero(joined & is_reference))
        return {
            "images": len(content),
            "contents": int(np.count_nonzero(first & decodes)),
            "flat_contents": int(np.count_nonzero(first & decodes & ~spread)),
            "joined_images": int(np.count_nonzero(joined & ~is_reference)),
            "joined_references": int(np.count_nonzero(joined & is_reference)),
        }


def content_of(
    hashes: NDArray[np.void], is_reference: NDArray[np.bool_], decodes: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Smallest id of the images with the same hash and side; one's own id if undecodable."""
    content = np.arange(len(hashes), dtype=np.int64)
    for side in (is_reference, ~is_reference):
        rows = np.flatnonzero(side & decodes)
        # Ids ascend, so the first row of a hash is the smallest.
        _, first, inverse = np.unique(hashes[rows], return_index=True, return_inverse=True)
        content[rows] = rows[first][inverse.reshape(-1)]
    return content


def read_content(inputs: CurationInputs) -> NDArray[np.int64]:
    """Read the content number of every image."""
    return np.load(inputs.file("exact", "content.npy"))
