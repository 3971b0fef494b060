"""Cells for a join of more images than can all be compared: centroids, and images sorted by cell.

Both stages do nothing where all images are compared. The shuffle is on disk: each partition of
`assign` writes its images sorted by cell, so that a range of cells is one slice of every file.
References take no part: they are compared with all images. If an earlier generation has cells, new
images are put into the same ones.
"""

import numpy as np

from dinoforge.curation import tables
from dinoforge.curation.config import DuplicatesConfig
from dinoforge.curation.policies.joins import choose_cells
from dinoforge.curation.stored.cell_tables import choose_sample, runs_in_cells
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.cell_join import members_of_cells
from dinoforge.neighbors.cells import SAMPLE_PER_CELL, nearest_cells, train_cells
from dinoforge.neighbors.products import backend_for
from dinoforge.stages import Json, Output

__all__ = ["AssignStage", "CellsStage", "images_per_partition"]

# At most so many partitions of `assign`: every range of cells opens the files of all.
_MOST_PARTITIONS = 4096


def images_per_partition(num_images: int, policy: DuplicatesConfig) -> int:
    """Return the number of images per partition of `assign`."""
    size = policy.block_images * max(1, policy.blocks_per_partition // 4)
    return max(size, -(-num_images // _MOST_PARTITIONS))


class CellsStage(CurationStage):
    """Train the centroids on a sample of the images, if the images are joined by cells."""

    name = "cells"
    number = 36
    keys = (
        *("duplicates.join", "duplicates.cells", "duplicates.cells_per_image"),
        *("seed", "device"),
    )
    execution_keys = ("partition_images", "base")
    needs = ("embed", "exact")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition, or none where all images are compared."""
        num, policy = inputs.facts("exact")[0]["joined_images"], inputs.config.duplicates
        if not num:
            return []
        dim, r = inputs.facts("embed")[0]["dim"], policy.cells_per_image
        runs = runs_in_cells(inputs)
        others = sum(run.facts("exact")[0]["joined_images"] for run in runs)
        cells = choose_cells(num, dim, policy.join, num_cells=policy.cells, r=r, others=others)
        if cells and runs:
            return [{"cells": runs[0].facts("cells")[0]["cells"], "earlier": True}]
        return [{"cells": cells}] if cells else []

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Train on a random sample that is keyed by the seed, or take the cells that there are."""
        if "earlier" in payload:
            out.write_array(
                "centroids", np.load(runs_in_cells(inputs)[0].file("cells", "centroids.npy"))
            )
            return {"cells": payload["cells"], "sample": 0}
        images = np.load(inputs.file("exact", "images.npy"), mmap_mode="r")
        num, seed = payload["cells"], inputs.config.seed
        sample = images[choose_sample(len(images), SAMPLE_PER_CELL * num, seed, "cells")]
        rows = tables.read_embeddings(inputs, "embed", sample)
        centroids = train_cells(rows, num, seed=seed, device=inputs.config.device)
        out.write_array("centroids", centroids)
        return {"cells": len(centroids), "sample": len(sample)}


class AssignStage(CurationStage):
    """Find the nearest cells of every image and write the images sorted by cell."""

    name = "assign"
    number = 37
    keys = (
        *("duplicates.cells_per_image", "duplicates.block_images"),
        "duplicates.blocks_per_partition",
    )
    execution_keys = ("device", "partition_images", "base")
    needs = ("embed", "exact", "cells")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the images that are joined; none where all are compared."""
        if not inputs.facts("cells"):
            return []
        num, policy = inputs.facts("exact")[0]["joined_images"], inputs.config.duplicates
        ranges = tables.split_range(num, images_per_partition(num, policy))
        return [{"first": a, "stop": b} for a, b in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Assign one range; an image whose embedding is zero is in no cell."""
        first, stop = payload["first"], payload["stop"]
        images = np.load(inputs.file("exact", "images.npy"), mmap_mode="r")
        ids = np.array(images[first:stop])
        stored = tables.read_stored(inputs, "embed", ids)
        centroids = np.load(inputs.file("cells", "centroids.npy"))
        r, device = inputs.config.duplicates.cells_per_image, inputs.config.device
        step, parts = inputs.config.duplicates.block_images, []
        for start in range(0, len(ids), step):
            rows = tables.unit_rows(stored[start : start + step])
            backend = backend_for(device)
            parts.append(nearest_cells(rows, centroids, r, backend=backend, device=device))
        nearest = np.concatenate(parts)
        members, starts = members_of_cells(nearest, len(centroids))
        out.write_array("nearest", nearest)
        out.write_array("ids", ids[members])
        out.write_array("cells", nearest[members])
        out.write_array("rows", stored[members])
        out.write_array("starts", starts)
        return {"images": len(ids), "in_no_cell": int((nearest < 0).all(axis=1).sum())}
