"""Embedding of paths: rows in the order of the images, the vectors, mistakes in one line."""

import contextlib
import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.encoders import embedding
from dinoforge.encoders.embedding import EmbedConfig, embed_images
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.pixels import PixelsEncoder
from dinoforge.errors import Interrupted, UsageError
from dinoforge.images import DecodePolicy, decode
from dinoforge.tables import read_table


@pytest.fixture
def photos(tmp_path):
    """Seven pictures; the first and the fourth file do not decode."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    for number in (0, 3):
        (folder / f"{number}.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_vectors_are_those_of_the_encoder_whatever_the_batches_are(photos, tmp_path, batch_size):
    out = tmp_path / "out"
    summary = embed_images([str(photos)], encoder="pixels", out=out, batch_size=batch_size)
    assert (summary.num_embedded, summary.num_bad, summary.dim) == (5, 2, 128)
    rows = read_table(out / "rows.parquet").to_pylist()
    assert [row["key"] for row in rows] == [str(number) for number in range(7)]
    assert [row["row"] for row in rows] == [-1, 0, 1, -1, 2, 3, 4]
    assert [row["problem"] is None for row in rows] == [
        number >= 0 for number in (-1, 0, 0, -1, 0, 0, 0)
    ]
    images = [decode((photos / f"{number}.png").read_bytes()) for number in (1, 2, 4, 5, 6)]
    vectors = np.load(out / "embeddings.npy")
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, make_encoder("pixels").encode(images))


def test_the_flag_decodes_as_the_section_of_a_recipe_does(tmp_path):
    pixels = np.linspace(0, 4095, 900).reshape(30, 30).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = ["embed", str(tmp_path / "a.png"), "--encoder", "pixels_raw", "--out"]
    assert main([*words, str(tmp_path / "as-it-is")]) == 0
    out = tmp_path / "with-range"
    assert (
        main([*words, str(out), "--decode", "range=[0,4095]", "--decode", "animated=reject"]) == 0
    )
    assert np.load(tmp_path / "as-it-is/embeddings.npy").max() < 0.1
    assert np.load(out / "embeddings.npy").max() > 0.9
    hashes = {json.loads(path.read_text())["config_hash"] for path in tmp_path.glob("*/run.json")}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--device", "banana"],
            "`--device` is 'banana' - command line - give cpu, cuda or cuda:N",
        ),
        (["--decode", "rang=1"], "unknown key `decode.rang` (did you mean `decode.range`?)"),
        (["--decode", "range=5"], "`decode.range` got 5, need tuple[float, float] | None"),
    ],
)
def test_a_wrong_flag_is_one_line(photos, tmp_path, capsys, words, line):
    assert main(["embed", str(photos), "--out", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")
    assert not (tmp_path / "out").exists()


def test_the_table_states_which_encoder_made_the_vectors(photos, tmp_path):
    summary = embed_images([str(photos)], encoder="pixels_centered", out=tmp_path / "out")
    notes = pq.read_schema(summary.rows).metadata
    assert notes[b"encoder"] == b"pixels_centered"
    assert notes[b"fingerprint"].decode() == make_encoder("pixels_centered").fingerprint


def test_the_same_command_writes_the_same_bytes_and_replaces_the_old(photos, tmp_path):
    out = tmp_path / "out"
    names = ("embeddings.npy", "rows.parquet")
    written = []
    for encoder in ("pixels", "pixels_raw", "pixels"):
        embed_images([str(photos)], encoder=encoder, out=out)
        written.append([(out / name).read_bytes() for name in names])
    assert written[0] == written[2]
    assert written[0][0] != written[1][0]
    assert {path.name for path in out.iterdir()} <= {*names, "problems.csv", "cache"}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--encoder", "pixel"], "unknown encoder `pixel` (did you mean `pixels`?)"),
        (["--batch-size", "0"], "batch size 0 - --batch-size - give 1 or more"),
        (["--batch-size", "many"], "invalid int value: 'many'"),
        (["--encoder", "checkpoint:none.pth"], "no such checkpoint"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_vectors(photos, tmp_path, capsys, words, what):
    out = tmp_path / "out"
    try:
        code = main(["embed", str(photos), "--out", str(out), *words])
    except SystemExit as stop:
        code = stop.code
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert code == 2
    assert what in line
    assert not (out / "embeddings.npy").exists()


def test_a_folder_in_which_nothing_decodes_is_reported_with_a_reason(photos, tmp_path):
    for number in range(7):
        (photos / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"none of the 7 images can be decoded \(not_an_image"):
        embed_images([str(photos)], encoder="pixels", out=tmp_path / "out")


def test_the_command_states_where_the_vectors_are_and_how_many(photos, tmp_path, capsys):
    words = ["embed", str(photos), "--out", str(tmp_path / "out"), "-q"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "5 images embedded, 2 undecodable" in output
    assert "float32 [5, 128]" in output
    assert str(tmp_path / "out/embeddings.npy") in output
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_embedded"] == 5


def test_a_function_that_breaks_its_promise_in_the_middle_is_reported(
    photos, tmp_path, monkeypatch
):
    (tmp_path / "height_encoder.py").write_text(
        "def f(images):\n    return [[1.0] * (2 + (len(i) > 23)) for i in images]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="python:height_encoder:f"):
        embed_images([str(photos)], encoder="python:height_encoder:f", out=tmp_path, batch_size=1)
    sys.modules.pop("height_encoder")
    assert not (tmp_path / "embeddings.npy").exists()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_interrupted_command_goes_on_behind_its_last_piece(
    photos, tmp_path, monkeypatch, batch_size
):
    embed_images([str(photos)], encoder="pixels", out=tmp_path / "calm", batch_size=batch_size)
    monkeypatch.setattr(embedding, "_PIECE", 2)
    encode, calls = PixelsEncoder.encode, []

    def stopped(self, images):
        calls.append(len(images))
        if sum(calls) == 4:
            raise Interrupted("stopped")
        return encode(self, images)

    monkeypatch.setattr(PixelsEncoder, "encode", stopped)
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        embed_images([str(photos)], encoder="pixels", out=out, batch_size=batch_size)
    assert not (out / "embeddings.npy").exists()
    (folder,) = out.glob("cache/embedded-*")
    assert len(list(folder.glob("*.npy"))) == 2
    calls[:] = [100]
    embed_images([str(photos)], encoder="pixels", out=out, batch_size=batch_size)
    assert sum(calls) == 100 + 5 - 2
    for name in ("embeddings.npy", "rows.parquet", "problems.csv"):
        assert (out / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name
    assert not list(out.glob("cache/embedded-*"))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, 0),
        ({"encoder": "pixels_raw"}, 5),
        ({"batch_size": 3}, 5),
        ({"config": EmbedConfig(workers="1")}, 0),
        ({"config": EmbedConfig(decode=DecodePolicy(animated="reject"))}, 5),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
def test_what_is_done_is_kept_for_the_same_command_only(
    photos, tmp_path, monkeypatch, change, again, ended
):
    out, settings = tmp_path / "out", {"encoder": "pixels"}
    if not ended:
        monkeypatch.setattr(embedding, "write_table", lambda *_, **__: 1 / 0)
    with contextlib.nullcontext() if ended else pytest.raises(ZeroDivisionError):
        embed_images([str(photos)], out=out, **settings)
    monkeypatch.undo()
    counted = []
    monkeypatch.setattr(embedding, "record_facts", lambda _, **facts: counted.append(facts))
    embed_images([str(photos)], out=out, **(settings | change))
    assert counted[0]["speed"]["images"] == again


def test_a_changed_image_is_embedded_again(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(embedding, "write_table", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed_images([str(photos)], encoder="pixels", out=out)
    monkeypatch.undo()
    path = photos / "2.png"
    content = bytearray(path.read_bytes())
    content[60] ^= 1  # as many bytes
    path.write_bytes(content)
    os.utime(path, (1, 1))
    summary = embed_images([str(photos)], encoder="pixels", out=out)
    assert (summary.num_embedded, summary.num_bad) == (4, 3)
