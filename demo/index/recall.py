"""How many of the exact nearest rows a compressed index finds."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.index.kinds import open_compressed
from dinoforge.demo.index.search import ExactRows, SearchableRows
from dinoforge.demo.index.tables import IndexInputs, IndexStage
from dinoforge.randomness import uniforms
from dinoforge.stages import Json, Output

__all__ = ["RecallStage"]

_QUERIES, _NEIGHBORS = 200, 10
_PROBES = (8, 32, 128, 512)  # cells that a query visits: the fewest that reach `_ENOUGH`
_ENOUGH = 0.95


class RecallStage(IndexStage):
    """Compare 200 searches with exact ones; the queries are rows, left out of their own results."""

    name = "recall"
    number = 50
    keys = ("seed",)
    needs = ("join", "compress")

    def plan(self, inputs: IndexInputs) -> list[Json]:
        """Plan one partition per compressed table."""
        return [{"table": facts["table"]} for facts in inputs.facts("compress")]

    def run(self, payload: Json, inputs: IndexInputs, out: Output) -> Json:
        """Measure one table."""
        rows = np.load(inputs.file("join", f"{payload['table']}.npy"), mmap_mode="c")
        index = inputs.file("compress", "faiss", out.index)
        draws = uniforms(inputs.config.seed, "index/recall", np.arange(_QUERIES)).ravel()
        asked = np.unique((draws * len(rows)).astype(np.int64))
        exact = _nearest(ExactRows(rows), rows, asked)
        is_cells = inputs.facts("compress")[out.index]["kind"] == "ivf"
        probes, recall = 0, 0.0
        for probes in _PROBES if is_cells else (0,):
            known = _nearest(open_compressed(index, rows, probes), rows, asked)
            pairs = zip(exact, known, strict=True)
            shares = [len(a & b) / max(1, len(a)) for a, b in pairs]
            recall = float(np.mean(shares))
            if recall >= _ENOUGH:
                break
        return {**payload, "queries": len(asked), "recall_at_10": recall, "probes": probes}


def _nearest(
    searched: SearchableRows, rows: NDArray[np.float16], asked: NDArray[np.int64]
) -> list[set[int]]:
    near = searched.search(rows[asked].astype(np.float32), _NEIGHBORS + 1).rows
    lists = zip(asked.tolist(), near.tolist(), strict=True)
    return [set([row for row in some if row not in {own, -1}][:_NEIGHBORS]) for own, some in lists]
