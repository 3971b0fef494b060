"""Vectors that the user has already, looked up by key."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinoforge.encoders.make import make_encoder
from dinoforge.errors import UsageError

KEYS = [f"k{at}" for at in range(7)]
VECTORS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float16)


def write(path, columns, group=3):
    pq.write_table(pa.table(columns), path, row_group_size=group)


@pytest.fixture(params=["lists", "fixed", "array", "embed"])
def stored(request, tmp_path):
    """Return the spec of the same seven vectors in every form."""
    kind = pa.list_(pa.float32(), 3) if request.param == "fixed" else pa.list_(pa.float32())
    if request.param in {"lists", "fixed"}:
        vectors = pa.array(VECTORS.tolist(), kind)
        write(tmp_path / "v.parquet", {"uid": KEYS, "size": [1] * 7, "vector": vectors})
        return f"stored:{tmp_path}/v.parquet"
    order = [6, 5, 4, 3, 2, 1, 0]
    if request.param == "array":
        np.save(tmp_path / "v.npy", VECTORS)
        write(tmp_path / "v.parquet", {"key": KEYS})
        return f"stored:{tmp_path}/v.npy"
    np.save(tmp_path / "embeddings.npy", VECTORS[order])
    write(tmp_path / "rows.parquet", {"row": [*order, -1], "key": [*KEYS, "bad"]})
    return f"stored:{tmp_path}"


def test_vectors_are_looked_up_by_key(stored):
    encoder = make_encoder(stored)
    assert encoder.dim == 3
    chosen = [5, 0, 6, 3]
    expected = VECTORS[chosen].astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.look_up([KEYS[at] for at in chosen]), expected, atol=1e-6)
    assert make_encoder(stored).fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["k1", "new", "other"], r"2 of 3 images are not in it: new, other"),
        (["k1", "k1"], "two images have the same key"),
    ],
)
def test_images_that_are_not_there(stored, keys, what):
    with pytest.raises(UsageError, match=what):
        make_encoder(stored).look_up(keys)


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"name": KEYS, "v": VECTORS.tolist()}, "no columns key"),
        ({"key": KEYS}, "no columns of vectors"),
        ({"key": KEYS, "v": VECTORS.tolist(), "w": VECTORS.tolist()}, "2 columns of vectors"),
        ({"key": KEYS, "v": [[1.0], *VECTORS[1:].tolist()]}, "several lengths"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, columns, what):
    write(tmp_path / "v.parquet", columns)
    with pytest.raises(UsageError, match=what):
        make_encoder(f"stored:{tmp_path}/v.parquet")


def test_keys_that_repeat_and_arrays_of_another_length(tmp_path):
    vectors = VECTORS.astype(np.float32).tolist()
    write(tmp_path / "v.parquet", {"key": ["a", *KEYS[:6], "a"], "v": [*vectors, [np.inf, 0, 0]]})
    encoder = make_encoder(f"stored:{tmp_path}/v.parquet")
    with pytest.raises(UsageError, match="1 of 2 images are in it repeatedly: a"):
        encoder.look_up(["a", "k1"])
    np.save(tmp_path / "v.npy", VECTORS)
    with pytest.raises(UsageError, match="7 vectors, 8 keys"):
        make_encoder(f"stored:{tmp_path}/v.npy")
    with pytest.raises(UsageError, match="of the images of a curation"):
        encoder.encode([])
    write(tmp_path / "v.parquet", {"key": ["a"], "v": [[np.inf, 0.0]]})
    with pytest.raises(UsageError, match="not finite"):
        make_encoder(f"stored:{tmp_path}/v.parquet").look_up(["a"])
