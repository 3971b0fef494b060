"""The pairs to compare on the pixels: the best proposals of either picture, each pair once."""

import numpy as np

from dinoforge.curation import tables
from dinoforge.curation.policies.pairs import distinct_pairs
from dinoforge.curation.stored.generations import every_generation
from dinoforge.curation.stored.local_features import Pictures
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.stages import Json, Output
from dinoforge.tables import read_tables
from dinoforge.verification.votes import Votes, combine_votes

__all__ = ["CandidatesStage"]


class CandidatesStage(CurationStage):
    """Unite the proposals of all partitions."""

    name = "candidates"
    number = 45
    keys = ("duplicates.verify.votes",)
    execution_keys = ("duplicates.verify.mode", "base")
    needs = ("exact", "proposals")

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan one partition; none when nothing is compared on the pixels."""
        if inputs.config.duplicates.verify.mode == "none":
            return []
        return [{}] if inputs.files("proposals", "votes.parquet") else []

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Take the best of the votes, and all of the nearest."""
        runs = every_generation(inputs)
        references = np.concatenate([Pictures.read(run).references for run in runs])
        files = inputs.files("proposals", "votes.parquet")
        a, b, votes = (column.to_numpy() for column in read_tables(files).columns)
        voted = [np.zeros((2, 0), np.int64)]
        if top := inputs.config.duplicates.verify.votes:
            # Apart, so that a reference is not crowded out by copies in the pool.
            across = np.isin(a, references) | np.isin(b, references)
            for side in (~across, across):
                best = combine_votes([Votes(a[side], b[side], votes[side])], top=top)
                voted.append(np.stack([best.pictures, best.others]))
        files = inputs.files("proposals", "nearest.parquet")
        a, b, _ = (column.to_numpy() for column in read_tables(files).columns)
        near = np.stack([np.minimum(a, b), np.maximum(a, b)])
        pairs = distinct_pairs(np.concatenate([*voted, near], axis=1))
        out.write_table("candidates", list(pairs), tables.CANDIDATES_SCHEMA)
        return {"pairs": pairs.shape[1], "by_votes": sum(part.shape[1] for part in voted)}
