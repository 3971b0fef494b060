"""Which pictures every picture proposes to be compared with: by votes, and by cosine."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.stored.generations import every_generation
from dinoforge.curation.stored.links import read_verifiable
from dinoforge.curation.stored.local_features import Pictures, plan_pictures, read_packed
from dinoforge.curation.tables import CurationInputs, CurationStage
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import Neighbors, top_k
from dinoforge.stages import Json, Output
from dinoforge.verification import votes

__all__ = ["ProposalsStage"]

# Vectors that are searched at a time; bounds memory.
_BASE_ROWS = 262_144

_Proposals = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
_NOTHING: _Proposals = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


class ProposalsStage(CurationStage):
    """Votes and nearest embeddings of every picture, among images and among references apart.

    An image is compared with references however many copies it has; references are not compared
    with each other. Embeddings are searched only of pictures that can be verified. Pictures of
    earlier generations are asked for, but do not ask.
    """

    name = "proposals"
    number = 44
    version = "1.1.0"
    keys = (
        "duplicates.verify.votes",
        "duplicates.verify.nearest",
        "duplicates.verify.windows",
        "partition_images",
    )
    execution_keys = ("duplicates.verify.mode", "device", "base")
    needs = ("embed", "embed-windows", "exact", "keypoints", "votes-index")
    runs_on = "gpu"

    def plan(self, inputs: CurationInputs) -> list[Json]:
        """Plan ranges of pictures."""
        return [] if inputs.config.duplicates.verify.mode == "none" else plan_pictures(inputs)

    def run(self, payload: Json, inputs: CurationInputs, out: Output) -> Json:
        """Ask for the pictures of one range."""
        policy, runs = inputs.config.duplicates.verify, every_generation(inputs)
        pictures = [Pictures.read(run) for run in runs]
        side = Pictures._fields.index(payload["side"])
        ids = pictures[-1][side][payload["first"] : payload["stop"]]
        sides = [0] if side else [0, 1]  # what references are compared with: images
        voted = [_NOTHING]
        if policy.votes:
            packed = read_packed(inputs, out.index)
            for run, of_run in zip(runs, pictures, strict=True):
                for at in sides:
                    index = votes.load_index(str(run.file("votes-index", "index.faiss", at)))
                    # Of another side or run, no picture is itself.
                    is_own = run is inputs and at == side
                    first = payload["first"] if is_own else len(of_run[at])
                    ballot = votes.count_votes(index, packed, first)
                    asking, asked = ids[ballot.pictures - first], of_run[at][ballot.others]
                    voted.append((asking, asked, ballot.votes))
        verifiable = read_verifiable(inputs)
        near = []
        for at in sides:
            other = np.concatenate([of_run[at] for of_run in pictures])
            other = other[verifiable[other]]
            near.append(_nearest(inputs, ids[verifiable[ids]], other, policy.nearest))
        counts = {}
        for name, parts in (("votes", voted), ("nearest", near)):
            columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
            out.write_table(name, columns, tables.PROPOSALS_SCHEMA)
            counts[name] = len(columns[0])
        return counts


def _nearest(
    inputs: CurationInputs, ids: NDArray[np.int64], base: NDArray[np.int64], k: int
) -> _Proposals:
    """Return the ``k`` nearest of ``base`` of every picture as columns: id, id, cosine.

    The cosine of a pair is the largest of both as a whole and, with windows, of a window of either
    with the whole of the other. Not of two windows: the same background would do.
    """
    if not k or not len(ids) or not len(base):
        return _NOTHING
    device = inputs.config.device
    whole, windows = _read_views(inputs, ids)
    # One more than asked for: the picture itself.
    search = partial(top_k, backend=backend_for(device), device=device)
    best = votes.Votes(*_NOTHING)
    step = _BASE_ROWS // (1 + windows.shape[1])
    for start in range(0, len(base), step):
        part = base[start : start + step]
        other_whole, other_windows = _read_views(inputs, part)
        parts = [best, _pairs(ids, part, search(whole, other_whole, k=k + 1))]
        if num := windows.shape[1]:
            near = search(windows.reshape(-1, whole.shape[1]), other_whole, k=k + 1)
            parts.append(_pairs(np.repeat(ids, num), part, near))
            near = search(whole, other_windows.reshape(-1, whole.shape[1]), k=num * (k + 1))
            parts.append(_pairs(ids, np.repeat(part, num), near))
        best = votes.strongest(parts, k)
    return best.pictures, best.others, best.votes


def _pairs(ids: NDArray[np.int64], base: NDArray[np.int64], near: Neighbors) -> votes.Votes:
    """Return neighbors, rows of ``base`` for every one of ``ids``, as pairs of two pictures."""
    row, column = np.nonzero(near.ids >= 0)
    others = base[near.ids[row, column]]
    is_other = others != ids[row]
    return votes.Votes(ids[row][is_other], others[is_other], near.scores[row, column][is_other])


def _read_views(
    inputs: CurationInputs, ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read the embeddings of pictures ``[n, D]`` and of their windows ``[n, 5 or 0, D]``."""
    whole = tables.read_embeddings(inputs, "embed", ids)
    if not inputs.config.duplicates.verify.windows:
        return whole, np.zeros((len(ids), 0, whole.shape[1]), np.float32)
    stored = tables.read_stored(inputs, "embed-windows", ids).reshape(-1, whole.shape[1])
    return whole, tables.unit_rows(stored).reshape(len(ids), -1, whole.shape[1])
