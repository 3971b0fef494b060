"""Embeddings: one row per image, those of the encoder, zero where nothing decodes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.curation.stages import embed
from dinoforge.curation.stored.decoding import ImageReader
from dinoforge.curation.tables import num_images, read_embeddings, read_facts, read_locations
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.pixels import PixelsEncoder
from dinoforge.errors import Interrupted, UsageError
from dinoforge.images import decode


def test_rows_are_those_of_the_encoder_and_zero_for_undecodable_images(inputs):
    rows = np.concatenate([np.load(path) for path in inputs.files("embed", "embeddings.npy")])
    decodes = read_facts(inputs, ["width"]).column("width").to_numpy() > 0
    assert len(rows) == num_images(inputs)
    assert not rows[~decodes].any()
    assert (~decodes).any()
    images = ImageReader(inputs.run_folder).read_each(read_locations(inputs, 40, 60))
    pictures = [decode(data) for data, good in zip(images, decodes[40:60], strict=True) if good]
    expected = make_encoder("pixels").encode(pictures)
    np.testing.assert_allclose(rows[40:60][decodes[40:60]], expected, atol=2e-3)


def test_unit_rows_are_read_across_partitions(inputs):
    ids = np.array([3, 46, 47, 48, 100])
    size = inputs.config.partition_images
    rows = read_embeddings(inputs, "embed", ids)
    files = [np.load(path) for path in inputs.files("embed", "embeddings.npy")]
    stored = np.stack([files[i // size][i % size] for i in ids]).astype(np.float64)
    norms = np.linalg.norm(stored, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, stored / np.where(norms > 0, norms, 1), atol=1e-6)
    assert read_embeddings(inputs, "embed", ids[:0]).shape == (0, 1)


def test_the_second_encoder_has_nothing_to_do_unless_it_is_another_one(inputs):
    assert inputs.files("embed-meaning", "embeddings.npy") == []


@pytest.mark.parametrize(
    ("foreign", "what"),
    [
        (lambda rows: rows[:20], r"embeddings of shape \[20, 128\], expected at least 47 x 128"),
        (lambda rows: rows[:, :32], r"embeddings of shape \[\d+, 32\], expected at least 1 x 128"),
        (lambda rows: rows * np.float16(np.nan), "not finite"),
        (lambda rows: rows + np.float16(np.inf), "not finite"),
    ],
)
def test_embeddings_that_something_else_has_written_are_refused(inputs, tmp_path, foreign, what):
    shutil.copytree(inputs.folders["embed"], tmp_path / "embed")
    changed = tmp_path / "embed/part-00001.embeddings.npy"
    np.save(changed, foreign(np.load(changed)))
    elsewhere = replace(inputs, folders={**inputs.folders, "embed": tmp_path / "embed"})
    size = inputs.config.partition_images
    last = size + 46 if "47" in what else size
    with pytest.raises(UsageError, match=f"{what}.*part-00001.*delete it"):
        read_embeddings(elsewhere, "embed", np.array([0, last]))


@pytest.mark.parametrize("workers", ["0", "3"])
def test_a_stopped_partition_goes_on_behind_its_last_piece_with_the_same_bytes(
    pool, tmp_path, monkeypatch, workers
):
    """One partition of all images in pieces of 64, interrupted in the second."""
    words = ("partition_images=4096", "plant.count=0", f"workers={workers}")
    pools.curated(pools.recipe(pool.sources, tmp_path / "calm", *words))
    monkeypatch.setattr(embed, "_PIECE", 64)
    encode, calls = PixelsEncoder.encode, []

    def stopped(self, images):
        calls.append(len(images))
        if len(calls) == 2:
            raise Interrupted("stopped")
        return encode(self, images)

    monkeypatch.setattr(PixelsEncoder, "encode", stopped)
    config = pools.recipe(pool.sources, tmp_path / "run", *words)
    with pytest.raises(Interrupted):
        pools.curated(config)
    (piece,) = (tmp_path / "run/curation/30-embed").glob("*.npy")
    assert len(np.load(piece)) == 64
    calls[:] = [0, 0]
    pools.curated(pools.recipe(pool.sources, tmp_path / "run", *words, "workers=1"))
    number = json.loads((tmp_path / "run/curation/30-embed/part-00000.done").read_text())
    embedded = number["facts"]["embedded"]
    assert embedded > 128
    assert sum(calls) == number["measured"]["images"] == embedded - 64
    assert pools.differences(tmp_path / "calm", tmp_path / "run") == []


def test_pieces_of_another_recipe_are_removed_unread(pool, calm, tmp_path):
    shutil.copytree(calm, tmp_path / "run")
    folder = tmp_path / "run/curation/30-embed"
    (folder / "part-00001.done").unlink()
    for name in ("part-00001.piece-0123456789abcdef-00000.npy", "part-00099.piece-0-00000.npy"):
        np.save(folder / name, np.ones((48, 128), np.float16))
    pools.curated(pools.recipe(pool.sources, tmp_path / "run"))
    assert pools.differences(calm, tmp_path / "run") == []


def test_speed_and_waiting_are_in_the_marker_and_in_the_log(calm):
    marker = json.loads((calm / "curation/30-embed/part-00001.done").read_text())
    assert marker["measured"]["images"] == marker["facts"]["embedded"] > 0
    assert marker["measured"]["images_per_s"] > 0
    assert 0 <= marker["measured"]["decode_wait"] <= 1


@pytest.fixture(scope="module")
def stored(pool, tmp_path_factory):
    """Return sources, and the spec of vectors that `dinoforge embed` made of their images."""
    folder = tmp_path_factory.mktemp("stored")
    paths = [str(pool.folder / name) for name in ("pool", "seeds")]
    main(["embed", *paths, "--out", str(folder), "-q"])
    sources = [{"role": "pool", "paths": paths}]
    return sources, f"stored:{folder}"


def test_stored_vectors_give_the_curation_of_their_encoder(stored, tmp_path):
    sources, spec = stored
    kept = []
    for name, encoder in (("stored", spec), ("pixels", "pixels")):
        words = (f"duplicates.encoder={encoder}", "plant.count=0", "retrieve.mode=none")
        pools.curated(pools.recipe(sources, tmp_path / name, *words))
        kept.append([(row["key"], row["decision"]) for row in pools.ledger(tmp_path / name)])
    assert kept[0] == kept[1]
    assert len(set(kept[0])) > 50


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("", "images are not in it"),
        ("plant.count=3", "`plant.count`"),
        ("duplicates.verify={mode: pixels, windows: true}", "`duplicates.verify.windows`"),
    ],
)
def test_stored_vectors_of_other_images_end_in_one_line(
    pool, stored, tmp_path, capsys, words, what
):
    test = [{"role": "pool", "paths": [str(pool.folder / "test")]}]
    sources = [*stored[0], *test] if not words else stored[0]
    words = [f"sources={json.dumps(sources)}", f"duplicates.encoder={stored[1]}", words]
    command = ["curate", *filter(None, words), "retrieve.mode=none", f"out={tmp_path / 'run'}"]
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert what in error
