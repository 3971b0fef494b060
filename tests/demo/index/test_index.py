"""An index: what stages write, what the reader finds, and that kills and places change nothing."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.demo.index.reader import open_index
from dinoforge.demo.network import open_network, patch_grid
from dinoforge.encoders.make import make_encoder
from dinoforge.errors import UsageError
from dinoforge.runs import read_facts
from dinoforge.sources.image_set import open_images

NUM = 20


@pytest.fixture(scope="module")
def network(training):
    return open_network(str(training))


@pytest.fixture(scope="module")
def opened(index, network):
    return open_index(index, network)


def test_vectors_are_those_of_the_encoder_and_patches_those_of_the_network(
    opened, network, training, tmp_path, pictures
):
    images = open_images([str(pictures)], cache=tmp_path)
    places = [place for place in range(NUM + 1) if "99" not in images.table["key"][place].as_py()]
    decoded = [images.decode(place) for place in places]
    encoder = make_encoder(f"checkpoint:{training}/export/step-000000000/model.safetensors")
    rows = np.stack([opened.vector(row) for row in range(NUM)])
    np.testing.assert_allclose(rows, encoder.encode(decoded), atol=1e-3)  # float16
    for row, image in enumerate(decoded):
        np.testing.assert_array_equal(opened.decode(row), image)
        patches = opened.patches(row)
        assert patches.shape == (*patch_grid(*image.shape[:2], 48, 8), 32)
        np.testing.assert_allclose(patches, network.patches(image, 48), atol=2e-2)
    with pytest.raises(IndexError):
        opened.patches(NUM)


def test_the_card_describes_the_index(opened, network, pictures, index):
    card = opened.card
    assert (card["num_images"], card["undecodable"], card["dim"]) == (NUM, 1, 32)
    assert (card["fingerprint"], card["trained"]) == (network.fingerprint, False)
    assert card["classes"] == {"a": 7, "b": 7, "c": 6}
    assert card["search"]["vectors"] | {"bytes": 0} == {
        **{"kind": "flat", "rows": NUM, "bytes": 0},
        **{"recall_at_10": 1.0, "queries": 0, "probes": 0},
    }
    assert card["licenses"] == {"": NUM - 1, "CC0-1.0": 1}
    assert card["sources"] == [str(pictures)]
    assert read_facts(index)["sources"]["undecodable"] == 1


def test_an_image_is_the_nearest_to_itself_whole_and_by_a_part(opened):
    every = np.stack([opened.vector(row) for row in range(NUM)])
    near = opened.search(every, 3)
    np.testing.assert_array_equal(near.rows[:, 0], np.arange(NUM))
    assert (np.diff(near.scores, axis=1) <= 0).all()
    np.testing.assert_allclose(near.scores, np.sort(every @ every.T)[:, :-4:-1], atol=1e-6)
    patches = opened.patches(5)
    row, column = 2, 4
    (hit, *rest) = opened.search_region(patches[row, column], 4)
    assert (hit.row, hit.place) == (5, (row, column))
    assert hit.score == pytest.approx(1, abs=1e-6)
    assert hit.box.top <= row <= hit.box.bottom
    assert hit.box.left <= column <= hit.box.right
    scores = [hit.score, *(other.score for other in rest)]
    assert scores == sorted(scores, reverse=True)
    assert len({hit.row, *(other.row for other in rest)}) == 4


def test_fewer_images_than_asked_for_are_padded(opened):
    near = opened.search(opened.vector(0)[None], NUM + 2)
    assert near.rows[0, NUM:].tolist() == [-1, -1]
    assert sorted(near.rows[0, :NUM].tolist()) == list(range(NUM))


def test_thumbnails_keep_the_aspect_and_facts_name_the_image(opened):
    assert {"license", "url"} <= opened.facts(0).keys()
    assert "other" not in opened.facts(0)
    facts = opened.facts(9)
    assert facts["key"].startswith(facts["class_name"])
    thumbnail = Image.open(io.BytesIO(opened.thumbnail(9)))
    assert (thumbnail.format, max(thumbnail.size)) == ("WEBP", 40)
    assert thumbnail.width / thumbnail.height == pytest.approx(
        facts["width"] / facts["height"], rel=0.05
    )


def test_the_map_has_a_place_and_a_named_cluster_per_image(opened):
    xy, clusters, names = opened.map()
    assert xy.shape == (NUM, 2)
    assert (clusters.min(), clusters.max() + 1) == (0, len(names))
    every = np.stack([opened.vector(row) for row in range(NUM)]).astype(np.float64)
    left, _, _ = np.linalg.svd(every - every.mean(axis=0), full_matrices=False)
    for axis in range(2):
        along = np.corrcoef(xy[:, axis], left[:, axis])[0, 1]
        assert abs(along) == pytest.approx(1, abs=1e-6)
    assert set(names) <= {"a", "b", "c"}


def test_after_a_kill_what_is_missing_is_made_again_byte_by_byte(make, index, tmp_path):
    other = tmp_path / "index"
    shutil.copytree(index, other)
    stage = other / "index/20-embed"
    for name in ("part-00001.done", "part-00001.vectors.npy", "part-00001.patches.bin"):
        (stage / name).unlink()
    (other / "index.json").unlink()
    with pytest.raises(UsageError, match="no finished index"):
        open_index(other)
    make(other, "partition_images=8")
    written, again = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in (folder / "index").rglob("part-*")
            if path.suffix != ".done"  # it has the speed
        }
        for folder in (index, other)
    )
    assert again.keys() == written.keys()
    assert [name for name in again if again[name] != written[name]] == []


def test_a_small_memory_compresses_and_the_card_states_the_recall(make, index, opened, tmp_path):
    pytest.importorskip("faiss")
    folder = tmp_path / "index"
    shutil.copytree(index, folder)
    small = open_index(make(folder, "memory=0.000001"))
    for table in ("vectors", "regions"):
        searched = small.card["search"][table]
        assert searched["kind"] == "pq"
        # 200 rows are proposed, of 20 and 160: all of them are compared.
        assert searched["recall_at_10"] == 1.0
        assert searched["bytes"] < opened.card["search"][table]["bytes"]
    every = np.stack([opened.vector(row) for row in range(NUM)])
    exact, proposed = (one.search(every, 5) for one in (opened, small))
    np.testing.assert_array_equal(exact.rows, proposed.rows)
    np.testing.assert_array_equal(small.search(every, 5, exact=True).rows, exact.rows)
    assert small.search_region(opened.patches(3)[0, 0], 1)[0].row == 3


def test_a_network_without_patches_gives_an_index_without_them(make, tmp_path):
    plain = open_index(make(tmp_path / "index", "encoder=pixels"))
    assert (plain.patch_dim, plain.patches(0).shape[:2]) == (0, (0, 0))
    assert plain.search(plain.vector(4)[None], 1).rows == [[4]]
    with pytest.raises(UsageError, match="the index has no patches"):
        plain.search_region(np.ones(4), 1)


def test_another_network_and_an_unfinished_index_are_refused(index, tmp_path):
    with pytest.raises(UsageError, match="another network"):
        open_index(index, open_network("pixels"))
    with pytest.raises(UsageError, match="no finished index"):
        open_index(tmp_path)


def test_the_command_takes_flags_and_prints_the_card(training, pictures, tmp_path, capsys):
    words = [str(pictures / "b"), "--encoder", str(training), "--out", str(tmp_path / "x")]
    assert main(["index", *words, "patches.size=32", "workers=0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 7
    assert main(["index", "encoder=pixels"]) == 2
    assert "no sources" in capsys.readouterr().err
