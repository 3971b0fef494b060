"""An index: what stages write, what the reader finds, and that kills and places change nothing."""

import io
import json
import random
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image
from pool import kill
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist

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


def test_the_dendrogram_is_that_of_the_class_means(opened):
    tree = opened.class_tree()
    assert (tree.names, tree.images) == (["a", "b", "c"], [7, 7, 6])
    assert [tree.names[at] for at in tree.of_rows] == [
        opened.facts(row)["class_name"] for row in range(NUM)
    ]
    every = np.stack([opened.vector(row) for row in range(NUM)]).astype(np.float64)
    means = np.stack([every[tree.of_rows == at].mean(axis=0) for at in range(3)])
    pairs = pdist(means - means.mean(axis=0), "cosine")
    np.testing.assert_allclose(tree.merges, linkage(pairs, "average"), atol=1e-3)
    assert tree.cophenetic == pytest.approx(cophenet(tree.merges, pairs)[0], abs=1e-3)


def test_t_sne_lays_out_a_sample_and_others_lie_between_their_nearest(make, index, tmp_path):
    pytest.importorskip("sklearn")
    words = ("map.layout=tsne", "map.sample=12")
    shutil.copytree(index, tmp_path / "first")
    first = open_index(make(tmp_path / "first", *words))
    assert first.card["map"] == {"layout": "tsne", "laid_out": 12}
    assert first.layout() == ("tsne", 12)
    xy = first.map()[0]
    sampled = np.linspace(0, NUM - 1, 12).round().astype(int)
    rest = [row for row in range(NUM) if row not in sampled]
    every = np.stack([first.vector(row) for row in range(NUM)])
    for row in rest:
        near = sampled[np.argsort(-every[sampled] @ every[row])[:3]]
        low, high = xy[near].min(axis=0), xy[near].max(axis=0)
        assert (xy[row] >= low - 1e-3).all()
        assert (xy[row] <= high + 1e-3).all()
    shutil.copytree(index, tmp_path / "second")
    again = open_index(make(tmp_path / "second", *words)).map()[0]
    np.testing.assert_array_equal(again, xy)
    whole = open_index(make(tmp_path / "second", "map.layout=tsne", "seed=1"))
    assert whole.layout() == ("tsne", NUM)
    assert not np.array_equal(whole.map()[0], xy)


def test_t_sne_without_its_extra_is_refused_before_anything_is_read(
    training, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    words = [str(pictures), f"encoder={training}", f"out={tmp_path}/x", "map.layout=tsne"]
    assert main(["index", *words]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert 'pip install "dinoforge[tsne]"' in line
    assert not (tmp_path / "x/index").exists()


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
    written, again = files_of(index), files_of(other)
    assert again.keys() == written.keys()
    assert [name for name in again if again[name] != written[name]] == []


def test_kills_at_random_moments_change_nothing(index, training, pictures, tmp_path):
    """Each after a few more partitions are done, so somewhere in the work on the next one."""
    words = ["index", f"sources=[{pictures}]", f"encoder={training}", "patches.size=48"]
    words += ["partition_images=8", "workers=0", "thumbnails.side=40"]
    draw = random.Random(2)
    for num_done in (2, 4):
        process = kill.start(words, tmp_path)
        while process.poll() is None and len([*tmp_path.rglob("*.done")]) < num_done:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.02))
        kill.kill(process, draw)
        assert process.returncode == -signal.SIGKILL, "all was done before the last kill"
    with pytest.raises(UsageError, match="no finished index"):
        open_index(tmp_path)
    assert kill.start(words, tmp_path).wait() == 0
    undisturbed, resumed = kill.state(index), kill.state(tmp_path)
    assert resumed.keys() == undisturbed.keys()
    assert [name for name, what in resumed.items() if what != undisturbed[name]] == []


def files_of(folder):
    """Bytes of what the stages wrote; markers have the speed, too."""
    every = (folder / "index").rglob("part-*")
    return {str(p.relative_to(folder)): p.read_bytes() for p in every if p.suffix != ".done"}


def test_two_processes_write_the_bytes_of_one(index, training, pictures, tmp_path):
    words = [f"encoder={training}", f"out={tmp_path / 'x'}", "patches.size=48", "workers=0"]
    words += ["partition_images=8", "thumbnails.side=40", "--on", "local:2"]
    assert main(["index", f"sources=[{pictures}]", *words]) == 0
    assert files_of(tmp_path / "x") == files_of(index)
    cards = [json.loads((folder / "index.json").read_text()) for folder in (tmp_path / "x", index)]
    assert cards[0] | {"date": ""} == cards[1] | {"date": ""}


def remove(folder, other):
    (folder / "index/20-embed/part-00001.thumbnails.bin").unlink()


def cut(folder, other):
    path = folder / "index/30-join/part-00000.vectors.npy"
    path.write_bytes(path.read_bytes()[:-64])


def swap(folder, other):  # of the same size
    name = "index/30-join/part-00000.regions.npy"
    shutil.copy(other / name, folder / name)


def swap_marker(folder, other):
    for path in (other / "index/20-embed").glob("part-00002.*"):
        shutil.copy(path, folder / "index/20-embed")


def swap_card(folder, other):
    card = json.loads((other / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(card | {"num_images": NUM + 1}))


def lose_plan(folder, other):
    (folder / "index/60-map/plan.json").write_text("{")


def age_card(folder, other):
    card = json.loads((folder / "index.json").read_text())
    del card["format"], card["licenses"]
    (folder / "index.json").write_text(json.dumps(card))


def age_stage(folder, other):
    path = folder / "index/20-embed/part-00000.done"
    marker = json.loads(path.read_text()) | {"version": "1.0.0", "fingerprint": "0" * 64}
    path.write_text(json.dumps(marker))


@pytest.fixture(scope="module")
def other(make, tmp_path_factory):
    """Return an index of the same images by another rule for patches."""
    return make(tmp_path_factory.mktemp("other") / "index", "patches.size=40")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (remove, "20-embed/part-00001 is missing, cut off, or of another index"),
        (cut, "30-join/part-00000 is missing, cut off, or of another index"),
        (swap, "regions.npy is of another index, or damaged"),
        (swap_marker, "20-embed/part-00002 is missing, cut off, or of another index"),
        (swap_card, "index.json is of another index"),
        (lose_plan, "60-map/part-00000 is missing"),
        (age_card, "by another version of dinoforge"),
        (age_stage, "by another version of dinoforge"),
    ],
)
def test_a_damaged_or_older_index_is_refused_and_made_again(
    index, other, tmp_path, capsys, harm, words
):
    folder = tmp_path / "index"
    shutil.copytree(index, folder)
    harm(folder, other)
    pytest.importorskip("starlette")
    with pytest.raises(UsageError):
        open_index(folder)  # first: a demo that is not refused would not end
    assert main(["demo", str(folder), "--port", "0", "--faces", "off", "--no-browser"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert str(folder) in line
    command = line.split("`")[1].split()
    assert command[:2] == ["dinoforge", "index"]
    if harm in (remove, age_card, age_stage):
        assert main(command[1:]) == 0
        assert files_of(folder) == files_of(index)
        assert open_index(folder).num_images == NUM


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
