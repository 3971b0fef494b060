"""Images that must not be kept: by hash, by host, by choice of their owner, by what they show."""

import hashlib
import json

import numpy as np
import pool as pools
import pytest
from PIL import Image
from skimage import data

from dinoforge.scorers.hashes import perceptual_hash

PICTURES = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four pictures with what a crawl notes; of the cat a copy that was saved again."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(PICTURES):
        picture = Image.fromarray(getattr(data, name)())
        picture.save(folder / f"{name}.png")
        note = {"url": f"https://site{number}.org/{name}.png", "opted_out": number == 3}
        (folder / f"{name}.json").write_text(json.dumps(note))
    cat = Image.fromarray(data.chelsea())
    cat.resize((cat.width // 2, cat.height // 2)).save(folder / "chelsea2.jpg", quality=50)
    (folder / "chelsea2.json").write_text('{"url": "https://site9.org/c.jpg", "opted_out": false}')
    return folder


def kept(photos, out, *words, sources=()):
    few = ("retrieve.mode=none", "plant.count=0", "side.columns=[url,opted_out]")
    every = [{"role": "pool", "paths": [str(photos)]}, *sources]
    pools.curated(pools.recipe(every, out, *few, *words), on_change="update")
    return {row["key"] for row in pools.ledger(out) if row["decision"] == "kept"}


EVERY = {*PICTURES, "chelsea2"}


def test_lists_of_hashes_and_hosts_and_opt_out_columns(photos, tmp_path):
    sha256 = hashlib.sha256((photos / "chelsea.png").read_bytes()).hexdigest()
    (tmp_path / "hashes.txt").write_text(f"# by hash\n{sha256}\n")
    (tmp_path / "hosts.txt").write_text("site0.org\nother.org\n")
    hashes, hosts = (f"lines('{tmp_path}/{name}.txt')" for name in ("hashes", "hosts"))
    where = f"filter.where=sha256 not in {hashes} and host(url) not in {hosts} and not opted_out"
    # The copy has other bytes: a hash of the file does not find it.
    assert kept(photos, tmp_path / "run", where, "duplicates.threshold=1") == {"coffee", "chelsea2"}


def test_a_list_of_perceptual_hashes_finds_copies_and_its_limit_comes_late(photos, tmp_path):
    (tmp_path / "blocked.txt").write_text(f"{perceptual_hash(data.chelsea()):016x} a cat\n")
    scores = f"scores=[{{name: blocked, scorer: 'phash:{tmp_path}/blocked.txt'}}]"
    run = tmp_path / "run"
    assert kept(photos, run, scores, "filter.where=blocked > 8") == EVERY - {"chelsea", "chelsea2"}
    measured = [
        (path, path.stat().st_mtime_ns) for path in (run / "curation").glob("2[03]-*/*.parquet")
    ]
    assert kept(photos, run, scores, "filter.where=blocked <= 8") == {"chelsea"}  # the larger one
    assert measured == [(path, path.stat().st_mtime_ns) for path, _ in measured]


def test_a_reference_is_a_watch_list_of_pictures_whose_copies_are_dropped(photos, tmp_path):
    (tmp_path / "banned").mkdir()
    turned = np.asarray(Image.fromarray(data.rocket()).resize((400, 267)))
    Image.fromarray(turned).save(tmp_path / "banned/known.jpg", quality=60)
    banned = {"role": "reference", "name": "banned", "paths": [str(tmp_path / "banned")]}
    run = tmp_path / "run"
    assert kept(photos, run, sources=[banned]) == EVERY - {"rocket", "chelsea2"}
    rows = {row["key"]: row for row in pools.ledger(run)}
    assert rows["rocket"]["reason"] == "leak"
    assert rows["known"]["decision"] == "dropped"
