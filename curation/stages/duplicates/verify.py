"""Candidate pairs compared on their pixels: measurements only, the rule comes late."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.stored.links import read_verifiable
from dinoforge.curation.stored.local_features import FeatureReader
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.products import exact_scores
from dinoforge.stages import Json, Output
from dinoforge.tables import read_rows
from dinoforge.verification.compare import compare_pictures

__all__ = ["VerifyStage"]


class VerifyStage(CurationStage):
    """Align the pictures of every candidate pair, and correlate their finest details."""

    name = "verify"
    number = 46
    version = "1.1.0"
    keys = ("partition_images",)
    execution_keys = ("duplicates.verify.mode", "duplicates.verify.pairs_per_partition", "base")
    needs = ("embed", "exact", "keypoints", "candidates")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of the candidate pairs."""
        policy = inputs.config.duplicates.verify
        if policy.mode == "none":
            return []
        pairs = sum(facts["pairs"] for facts in inputs.facts("candidates"))
        ranges = tables.split_range(pairs, policy.pairs_per_partition)
        return [{"first": first, "stop": stop} for first, stop in ranges]

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Compare the pairs of one range."""
        candidates = inputs.files("candidates", "candidates.parquet")
        table = read_rows(candidates, payload["first"], payload["stop"])
        i, j = (column.to_numpy() for column in table.columns)
        reader, verifiable = FeatureReader(inputs), read_verifiable(inputs)
        can_verify = verifiable[i] & verifiable[j]
        num_skipped = int(np.count_nonzero(~can_verify))
        i, j = i[can_verify], j[can_verify]
        results = [
            compare_pictures(reader.read(a), reader.read(b))
            for a, b in zip(i.tolist(), j.tolist(), strict=True)
        ]
        measured = [
            np.array([getattr(result, name) for result in results])
            for name in ("places", "correlation", "overlap_a", "overlap_b", "mirrored")
        ]
        columns = [i, j, _cosines(inputs, i, j), *measured]
        out.write_table("verified", columns, tables.VERIFIED_SCHEMA)
        return {"compared": len(i), "not_verifiable": num_skipped}


def _cosines(
    inputs: CurationInputs, i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.float32]:
    ids, at = np.unique(np.concatenate([i, j]), return_inverse=True)
    rows, (a, b) = tables.read_embeddings(inputs, "embed", ids), at.reshape(2, -1)
    return exact_scores(rows, rows, a, b)
