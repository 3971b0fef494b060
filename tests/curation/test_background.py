"""Score normalization: cosines less what the images have with a background set."""

import shutil

import numpy as np
import pool as pools
import pytest

from dinoforge.curated import pairs_files
from dinoforge.encoders.embedding import embed_images
from dinoforge.errors import UsageError
from dinoforge.tables import read_tables


@pytest.fixture(scope="module")
def background(pool, tmp_path_factory):
    """Vectors of the test pictures, as `dinoforge embed` writes them."""
    folder = tmp_path_factory.mktemp("background") / "vectors"
    embed_images([str(pool.folder / "test")], encoder="pixels", out=folder)
    return folder


def stored_pairs(run):
    columns = read_tables(pairs_files(run), ["i", "j", "similarity"]).to_pydict()
    return {(i, j): s for i, j, s in zip(*columns.values(), strict=True)}


def test_a_pair_is_lowered_by_the_nearest_three_of_the_background(pool, calm, background, tmp_path):
    run = shutil.copytree(calm, tmp_path / "run")
    words = [f"duplicates.background={background}", "duplicates.background_weight=0.2"]
    config = pools.recipe(pool.sources, run, *words)
    pools.curated(config, on_change="update")
    parts = sorted((run / "curation/30-embed").glob("*.npy"))
    vectors = np.concatenate([np.load(part) for part in parts]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-9)
    known = np.load(background / "embeddings.npy").astype(np.float64)
    bias = np.sort(vectors @ known.T, axis=1)[:, -3:].mean(axis=1).clip(min=0)
    lowered = {
        (i, j): cosine - 0.2 * (bias[i] + bias[j]) / 2
        for (i, j), cosine in stored_pairs(calm).items()
    }
    expected = {pair: value for pair, value in lowered.items() if value > config.duplicates.floor}
    pairs = stored_pairs(run)
    assert 0 < len(expected) < len(lowered)
    assert pairs.keys() == expected.keys()
    assert max(abs(pairs[pair] - value) for pair, value in expected.items()) < 1e-5


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda vectors: vectors[:-1], r"has \d+ vectors, its table lists \d+"),
        (
            lambda vectors: np.where(np.arange(len(vectors))[:, None] == 1, np.nan, vectors),
            "finite",
        ),
        (None, "no embeddings of a background set"),
    ],
)
def test_vectors_that_are_not_those_of_the_table_are_refused(
    pool, background, tmp_path, change, what
):
    folder = shutil.copytree(background, tmp_path / "vectors")
    vectors = np.load(folder / "embeddings.npy")
    (folder / "embeddings.npy").unlink()
    if change is not None:
        np.save(folder / "embeddings.npy", change(vectors).astype(np.float32))
    config = pools.recipe(pool.sources, tmp_path / "run", f"duplicates.background={folder}")
    with pytest.raises(UsageError, match=f"{what}.*run `dinoforge embed IMAGES --encoder pixels"):
        pools.curated(config)


def test_vectors_of_another_encoder_are_refused(pool, background, tmp_path):
    words = [f"duplicates.background={background}", "duplicates.encoder=pixels_centered"]
    config = pools.recipe(pool.sources, tmp_path / "run", *words)
    with pytest.raises(UsageError, match="the background set was embedded by pixels"):
        pools.curated(config)
