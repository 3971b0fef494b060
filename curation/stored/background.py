"""Score normalization: a cosine counts less if both images resemble many that are no copies.

As Pizzi et al. 2022 (SSCD) do for the image similarity challenge of 2021: from the
cosine of a pair, subtract what its images have with their nearest images of a background set.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation import tables
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.policies.pairs import Pairs
from dinoforge.curation.tables import CurationInputs
from dinoforge.errors import UsageError
from dinoforge.files import sha256_file
from dinoforge.neighbors.products import Rows
from dinoforge.neighbors.search import top_k
from dinoforge.stages import Json
from dinoforge.tables import open_table

__all__ = ["BACKGROUND_KEYS", "background_facts", "check_background", "normalize"]

# Keys that `normalize` reads, and `background_facts` for the payload of every stage that calls it.
BACKGROUND_KEYS = ("duplicates.background", "duplicates.background_weight")

_NEAREST = 3
_ROWS_AT_ONCE = 16_384


def check_background(config: CurationConfig, encoder: str) -> None:
    """Check that the background set was embedded by the encoder of this fingerprint.

    Raises
    ------
    UsageError
        If the folder is not one of `dinoforge embed`, its vectors are of another encoder, or they
        are not those that its table lists.
    """
    folder = config.duplicates.background
    do = f"run `dinoforge embed IMAGES --encoder {config.duplicates.encoder} --out {folder}`"
    try:
        with open_table(Path(folder) / "rows.parquet") as table:
            notes = table.schema_arrow.metadata or {}
            num_listed = int((table.read(["row"]).column("row").to_numpy() >= 0).sum())
        vectors = np.load(_vectors(folder))
    except (UsageError, OSError, ValueError) as error:
        raise UsageError(what="no embeddings of a background set", where=folder, do=do) from error
    what = ""
    if notes.get(b"fingerprint", b"").decode() != encoder:
        name = notes.get(b"encoder", b"another encoder").decode()
        version = "another version of " if name == config.duplicates.encoder else ""
        what = f"was embedded by {version}{name}, `duplicates.encoder` is another one"
    elif len(vectors) != num_listed or not num_listed:
        what = f"has {len(vectors)} vectors, its table lists {num_listed}"
    elif not np.isfinite(vectors).all():
        what = "has vectors that are not finite"
    if what:
        raise UsageError(what=f"the background set {what}", where=folder, do=do)


def background_facts(inputs: CurationInputs) -> Json:
    """Return the hash of the background set, if any, for payloads: another one runs again."""
    folder = inputs.config.duplicates.background
    return {"background": sha256_file(_vectors(folder))} if folder else {}


def normalize(inputs: CurationInputs, pairs: Pairs) -> Pairs:
    """Lower the similarity of pairs of contents by that of their images to the background set.

    To ``s - w (b_i + b_j) / 2`` with the weight w, where b is the mean cosine with the 3 nearest
    images of the set, at least 0: no pair gets more similar. Nothing changes without a set.
    """
    policy = inputs.config.duplicates
    if not policy.background or not len(pairs.i):
        return pairs
    background = _read(policy.background, _vectors(policy.background).stat().st_mtime_ns)
    ids, ends = np.unique(np.concatenate([pairs.i, pairs.j]), return_inverse=True)
    bias = np.concatenate(
        [
            _bias(tables.read_embeddings(inputs, "embed", ids[at : at + _ROWS_AT_ONCE]), background)
            for at in range(0, len(ids), _ROWS_AT_ONCE)
        ]
    )
    of_i, of_j = bias[ends].reshape(2, -1)
    lowered = pairs.similarity - policy.background_weight * (of_i + of_j) / 2
    return Pairs(pairs.i, pairs.j, lowered.astype(np.float32))


def _bias(rows: Rows, background: Rows) -> NDArray[np.float64]:
    nearest = top_k(rows, background, k=min(_NEAREST, len(background))).scores
    return np.maximum(np.where(np.isfinite(nearest), nearest, 0).mean(axis=1, dtype=float), 0)


def _vectors(folder: str) -> Path:
    return Path(folder) / "embeddings.npy"


@lru_cache(maxsize=1)
def _read(folder: str, _: int) -> Rows:
    return np.load(_vectors(folder))
