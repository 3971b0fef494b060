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

__all__ = ["RANGE_ROWS", "ExactStage", "content_of"]

RANGE_ROWS = 1 << 24  # of hashes that are sorted at once


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
        decodes = of_every_generation(inputs, tables.read_decodable)
        content = content_of(_read_hashes(inputs, len(roles)), is_reference, decodes)
        start = first_id(inputs)
        content, is_reference, decodes = content[start:], is_reference[start:], decodes[start:]
        first = decodes.copy()  # images that are the first of their content
        flat = np.zeros(len(content), np.bool_)
        at = 0
        for block in tables.iter_facts(inputs, ["std"]):
            rows = slice(at, at := at + block.num_rows)
            first[rows] &= content[rows] == np.arange(start + rows.start, start + rows.stop)
            flat[rows] = block.column("std").to_numpy() < inputs.config.duplicates.flat_std
        images, references = (
            start + np.flatnonzero(first & ~flat & side) for side in (~is_reference, is_reference)
        )
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


def _read_hashes(inputs: CurationInputs, num: int) -> NDArray[np.void]:
    """Read the first 128 bits of the hash of the pixels of every image: no two pictures share them.

    The odds that any two of a billion pictures do are 1 to 10^20.
    """
    hashes = np.empty(num, "V16")
    at = 0
    for block in tables.iter_hashes(inputs, "pixels_sha256"):
        hashes[at : at + len(block)] = block.view("V16")[::2]
        at += len(block)
    return hashes


def content_of(
    hashes: NDArray[np.void], is_reference: NDArray[np.bool_], decodes: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the smallest id with the same hash and side per image; its own id if undecodable.

    A range of hashes at a time, which takes the less memory the more images there are.
    """
    content = np.arange(len(hashes), dtype=np.int64)
    first_byte = hashes.view(np.uint8).reshape(len(hashes), -1)[:, 0]
    num_ranges = min(len(hashes) // RANGE_ROWS + 1, 256)
    for part in range(num_ranges):
        low, high = (at * 256 // num_ranges for at in (part, part + 1))
        in_range = decodes & (first_byte >= low) & (first_byte < high)
        for side in (is_reference, ~is_reference):
            rows = np.flatnonzero(side & in_range)
            # Ids ascend, so the first row of a hash is the smallest.
            _, first, inverse = np.unique(hashes[rows], return_index=True, return_inverse=True)
            content[rows] = rows[first][inverse.reshape(-1)]
    return content
