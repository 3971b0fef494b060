"""What the join by cells misses, measured: pairs of a random sample of images, found exactly."""

import itertools

import numpy as np
import pyarrow as pa

from dinoforge.curation import tables
from dinoforge.curation.policies.pairs import Pairs
from dinoforge.curation.stored.background import background_facts, normalize
from dinoforge.curation.stored.cell_tables import choose_sample, read_nearest, runs_in_cells
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.cell_join import Members, join_sample
from dinoforge.neighbors.products import backend_for
from dinoforge.stages import Json, Output

__all__ = ["RecallStage"]


class RecallStage(CurationStage):
    """Join a sample with all images exactly, and list which pairs share a cell."""

    name = "recall"
    number = 41
    keys = (
        *("duplicates.floor", "duplicates.recall_images", "duplicates.block_images", "seed"),
        "duplicates.background_weight",
    )
    execution_keys = ("device", "partition_images", "base", "duplicates.background")
    needs = ("embed", "exact", "cells", "assign")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan the ranges of `assign`, of all runs with cells; none where all are compared."""
        if not inputs.facts("cells"):
            return []
        background = background_facts(inputs)
        payloads: list[Json] = []
        for number, run in enumerate([inputs, *runs_in_cells(inputs)]):
            counts = [facts["images"] for facts in run.facts("assign")]
            bounds = np.cumsum([0, *counts]).tolist()
            of_run = {"earlier": number} if number else {}
            ranges = ({"first": a, "stop": b} for a, b in itertools.pairwise(bounds))
            payloads += [part | background | of_run for part in ranges]
        return payloads

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Join the sample with one range of images."""
        policy, device = inputs.config.duplicates, inputs.config.device
        own = np.load(inputs.file("exact", "images.npy"), mmap_mode="r")
        chosen = choose_sample(len(own), policy.recall_images, inputs.config.seed, "recall")
        sample_ids, first = own[chosen], payload["first"]
        run = [inputs, *runs_in_cells(inputs)][payload.get("earlier", 0)]
        images = np.load(run.file("exact", "images.npy"), mmap_mode="r")
        sample = Members(
            tables.read_embeddings(inputs, "embed", sample_ids), read_nearest(inputs, chosen)
        )
        nearest = read_nearest(run, np.arange(first, payload["stop"]))
        parts = []
        for start in range(first, payload["stop"], policy.block_images):
            stop = min(start + policy.block_images, payload["stop"])
            ids = np.array(images[start:stop])
            block = Members(
                tables.read_embeddings(inputs, "embed", ids), nearest[start - first : stop - first]
            )
            pairs = join_sample(
                sample, block, threshold=policy.floor, backend=backend_for(device), device=device
            )
            scored = Pairs(sample_ids[pairs.i], ids[pairs.j], pairs.similarity)
            scored = normalize(inputs, scored)
            wanted = scored.is_above(policy.floor) & (scored.i != scored.j)
            columns = (*scored, pairs.is_found)
            parts.append(pa.table(columns, schema=tables.RECALL_SCHEMA).filter(pa.array(wanted)))
        table = pa.concat_tables(parts)
        out.write_table("sampled", table, tables.RECALL_SCHEMA)
        return {
            "sample": len(chosen),
            "compared": len(chosen) * (payload["stop"] - first),
            "pairs": table.num_rows,
            "found": int(np.count_nonzero(table.column("is_found").to_numpy())),
        }
