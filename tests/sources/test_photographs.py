"""Sample tiles: cut from disjoint parts of real photographs, the same bytes each time."""

import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from dinoforge.sources import photographs as samples
from dinoforge.sources.photographs import PHOTOGRAPHS, SEED_PHOTOGRAPHS, write_tiles

pytest.importorskip("skimage", reason='needs "dinoforge[quickstart]"')

TILE = 48
PLACE = re.compile(r"y(\d+)_x(\d+)$")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_tiles(tmp_path_factory.mktemp("samples"), tile=TILE, stride=96)


def files(folder):
    return {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}


def hashes(folder):
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files(folder).items()
    }


@pytest.fixture
def one_photograph(tmp_path, monkeypatch):
    """A photograph whose every pixel encodes its place, in place of those of the package."""
    rows, columns = np.mgrid[0:200, 0:240]
    pixels = np.stack([rows, columns, rows * 0], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "astronaut.png")
    photographs = {"astronaut": tmp_path / "astronaut.png"}
    monkeypatch.setattr(samples, "_find_photographs", lambda: photographs)
    return 240


def test_no_test_pixel_is_in_a_training_tile(one_photograph, tmp_path):
    made = write_tiles(tmp_path / "tiles", tile=30, stride=11)
    columns = {
        role: np.concatenate(
            [np.unique(np.asarray(Image.open(p))[..., 1]) for p in files(f).values()]
        )
        for role, f in (("pool", made.pool), ("seeds", made.seeds), ("test", made.test))
    }
    border = one_photograph * 3 // 4
    assert columns["test"].min() == border
    assert max(columns["pool"].max(), columns["seeds"].max()) < border


def test_every_tile_is_the_square_that_its_name_states(one_photograph, tmp_path):
    made = write_tiles(tmp_path / "tiles", tile=30, stride=11)
    for path in [*files(made.pool).values(), *files(made.seeds).values()]:
        y, x = map(int, PLACE.search(path.stem).groups())
        tile = np.asarray(Image.open(path))
        assert tile.shape == (30, 30, 3)
        assert tuple(tile[0, 0]) == (y, x, 0)
        assert tuple(tile[-1, -1]) == (y + 29, x + 29, 0)


def test_there_are_tiles_of_every_photograph_and_seeds_of_those_named(folders):
    names = {name.partition(".")[0] for name in PHOTOGRAPHS}
    assert {path.name for path in folders.test.iterdir()} == names
    assert {path.name for path in folders.pool.iterdir()} == names
    assert {path.name for path in folders.seeds.iterdir()} == set(SEED_PHOTOGRAPHS)
    for name in SEED_PHOTOGRAPHS:
        num_seeds, num_pool = (len(files(f / name)) for f in (folders.seeds, folders.pool))
        assert num_seeds == -(-(num_seeds + num_pool) // 4)
    keys = [
        path.stem for f in (folders.pool, folders.seeds, folders.test) for path in files(f).values()
    ]
    assert len(keys) == len(set(keys))
    for path in list(files(folders.test).values())[:5]:
        assert np.asarray(Image.open(path)).shape == (TILE, TILE, 3)


def test_tiles_made_twice_are_the_same_bytes(folders, tmp_path):
    again = write_tiles(tmp_path, tile=TILE, stride=96)
    assert hashes(again.pool.parent) == hashes(folders.pool.parent)


def test_tiles_that_are_there_are_kept_and_half_a_set_is_cut_again(one_photograph, tmp_path):
    made = write_tiles(tmp_path / "tiles", tile=40, stride=40)
    before = hashes(tmp_path / "tiles")
    first = next(iter(files(made.pool).values()))
    first.write_bytes(b"mine")
    write_tiles(tmp_path / "tiles", tile=40, stride=40)
    assert first.read_bytes() == b"mine"
    (tmp_path / "tiles/tiles.json").unlink()  # killed before the end
    write_tiles(tmp_path / "tiles", tile=40, stride=40)
    assert hashes(tmp_path / "tiles") == before


def _until_killed(cut, calls):
    """Cut as often as that, then be killed."""
    left = iter(range(calls))

    def cut_or_die(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return cut(*arguments)

    return cut_or_die


def test_tiles_of_a_cut_that_was_killed_do_not_stay_among_others(
    one_photograph, tmp_path, monkeypatch
):
    with monkeypatch.context() as context:
        context.setattr(samples, "_tiles", _until_killed(samples._tiles, 1))
        with pytest.raises(KeyboardInterrupt):
            write_tiles(tmp_path / "tiles", tile=40, stride=40)
    assert files(tmp_path / "tiles/test")
    write_tiles(tmp_path / "tiles", tile=30, stride=50)
    write_tiles(tmp_path / "fresh", tile=30, stride=50)
    assert hashes(tmp_path / "tiles") == hashes(tmp_path / "fresh")


def test_tiles_of_another_size_replace_the_old_ones(one_photograph, tmp_path):
    write_tiles(tmp_path / "tiles", tile=40, stride=40)
    write_tiles(tmp_path / "tiles", tile=30, stride=50)
    write_tiles(tmp_path / "fresh", tile=30, stride=50)
    assert hashes(tmp_path / "tiles") == hashes(tmp_path / "fresh")
    assert json.loads((tmp_path / "tiles/tiles.json").read_text())["tile"] == 30
