"""What dinoforge wrote is no source, wherever it lies and by whatever way it is reached."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.shards.writer import ShardWriter
from dinoforge.sources.accounting import Account
from dinoforge.sources.discover import discover_files
from dinoforge.sources.outputs import check_out, mark_cache
from dinoforge.sources.unpack import plain_tar

FACTS = {"command": "train", "versions": {"dinoforge": "0.1", "python": "3"}}


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "PNG")
    return path


def shards(folder):
    with ShardWriter(folder, "pool") as writer:
        writer.write("0", {"png": b"1"})
    return writer.shards[0].path


def make_run(folder, **facts):
    """A run folder with images in it, as caches and exports are."""
    picture(folder / "cache/unpacked/x.png")
    shards(folder / "shards")
    (folder / "run.json").write_text(json.dumps(FACTS | facts))
    return folder


@pytest.fixture
def photos(tmp_path):
    for name in ("1.png", "sub/2.png"):
        picture(tmp_path / "photos" / name)
    return tmp_path / "photos"


def discovered(root, *paths):
    """Names below ``root``, and problems by path."""
    files = discover_files([str(path) for path in paths])
    names = [item.path for item in files.items]
    problems = [(p["shard"], p["reason"]) for p in files.problems]
    return [name.removeprefix(f"{root}/") for name in names], problems


@pytest.mark.parametrize("command", ["curate", "train", "evaluate", "embed"])
@pytest.mark.parametrize("place", ["run", "sub/deep/run", "run.old-1"])
def test_a_run_folder_in_a_source_is_skipped_and_reported_once(photos, command, place):
    make_run(photos / place, command=command)
    names, problems = discovered(photos, photos)
    assert names == ["1.png", "sub/2.png"]
    assert problems == [(str(photos / place), "own_output")]


def test_caches_and_exported_shards_are_skipped(photos):
    mark_cache(picture(photos / "cache/x.png").parent)
    tar = shards(photos / "exported")
    shards(photos / "exported/more")
    picture(photos / "exported/own.png")
    (photos / "exported/foreign.tar").write_bytes(tar.read_bytes())
    names, problems = discovered(photos, photos)
    assert names == ["1.png", "exported/foreign.tar", "exported/own.png", "sub/2.png"]
    skipped = [str(photos / name) for name in ("cache", "exported", "exported/more")]
    assert problems == [(name, "own_output") for name in skipped]


def test_links_lead_into_no_output(photos):
    run = make_run(photos.parent / "run")
    (photos / "up").symlink_to("..")
    (photos / "to_run").symlink_to(run)
    (photos / "to_cache").symlink_to(run / "cache/unpacked")
    (photos / "to.tar").symlink_to(run / "shards/pool-000000.tar")
    (photos / "sub/to.tar").symlink_to(run / "shards/pool-000000.tar")
    names, problems = discovered(photos, photos)
    assert names == ["1.png", "sub/2.png"]
    expected = dict.fromkeys(["", "/sub", "/to_cache", "/to_run"], "own_output")
    expected |= {"/up/photos": "same_file", "/up/run": "same_file"}
    assert dict(problems) == {f"{photos}{name}": reason for name, reason in expected.items()}


def test_shards_in_the_given_folder_are_read_if_there_is_nothing_else(photos):
    run = make_run(photos.parent / "run")
    picture(run / "shards/sheet.png")
    assert discovered(run, run / "shards")[0] == ["shards/sheet.png", "shards/pool-000000.tar"]
    alone = shards(photos.parent / "alone").parent
    assert discovered(alone, alone) == (["pool-000000.tar"], [])
    picture(alone / "cat/1.png")
    assert discovered(alone, alone) == (["cat/1.png"], [(str(alone), "own_output")])
    shards(photos)
    assert discovered(photos, photos) == (["1.png", "sub/2.png"], [(str(photos), "own_output")])
    # Several folders of shards are each read.
    for name in ("one", "two"):
        shards(photos.parent / "copies" / name)
    names, problems = discovered(photos.parent / "copies", f"{photos.parent}/copies/*")
    assert (names, problems) == (["one/pool-000000.tar", "two/pool-000000.tar"], [])


def test_uncompressed_tars_are_recognized_without_their_run(photos):
    packed = photos / "x.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(photos / "1.png", "1.png")
    unpacked = photos / "lost/unpacked"
    assert plain_tar(packed, unpacked) != packed
    names, problems = discovered(photos, photos)
    assert names == ["1.png", "x.tar.gz", "sub/2.png"]
    assert problems == [(str(unpacked), "own_output")]
    (photos.parent / "y.tgz").symlink_to(packed)
    assert plain_tar(photos.parent / "y.tgz", unpacked) == plain_tar(packed, unpacked)


def test_patterns_skip_output_unless_they_match_nothing_else(photos, monkeypatch):
    run = make_run(photos / "run")
    for pattern, there in {"*": 2, "**": 2, "*/*": 1, "**/*.*": 2}.items():
        names, problems = discovered(photos, f"{photos}/{pattern}")
        assert names == ["1.png", "sub/2.png"][-there:], pattern
        assert problems == [(str(run), "own_output")], pattern
    assert discovered(photos, f"{photos}/r*")[0] == ["run/cache/unpacked/x.png"]
    assert discovered(run, f"{run}/*/*.tar")[0] == ["shards/pool-000000.tar"]
    monkeypatch.chdir(photos)
    assert discovered(photos, "*")[1] == [("run", "own_output")]
    assert discovered(photos, "./**/*.tar")[0] == ["./run/shards/pool-000000.tar"]


def test_a_path_that_is_given_is_read(photos):
    run = make_run(photos / "run")
    assert discovered(run, run)[0] == ["cache/unpacked/x.png"]
    assert discovered(run, run / "shards")[0] == ["shards/pool-000000.tar"]
    assert discovered(run, run / "cache")[0] == ["cache/unpacked/x.png"]
    picture(run / "photos/3.png")  # a source in a run folder
    assert discovered(run, run / "photos")[0] == ["photos/3.png"]


def test_files_of_other_programs_hide_nothing(photos):
    (photos / "sub/run.json").write_text('{"command": "train", "versions": {"torch": "2"}}')
    (photos / "sub/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (photos / "sub/pool.tar").write_bytes(b"")
    (photos / "sub/pool.json").write_text("{}")
    names, problems = discovered(photos, photos)
    assert names == ["1.png", "sub/2.png", "sub/pool.tar"]
    assert {reason for _, reason in problems} == {"other_file"}


def test_a_run_folder_is_no_source_of_its_own(photos, monkeypatch):
    check_out([str(photos / "sub"), "none", f"{photos}/*"], str(photos))
    check_out([str(photos)], str(photos / "run"))
    monkeypatch.chdir(photos)
    (photos.parent / "link").symlink_to(photos)
    for source in (".", "../photos/", str(photos), "../link"):
        with pytest.raises(UsageError, match=r"the run folder is also a source - .* - choose"):
            check_out(["sub", source], str(photos))
    with pytest.raises(UsageError, match="the source `shards` is part of the run folder"):
        check_out(["shards"], ".", ("shards",))


def test_a_shard_that_a_curation_lacks_is_named(tmp_path):
    run = make_run(tmp_path / "run", command="curate")
    (run / "published").mkdir()
    (run / "published/summary.json").write_text('{"kept": 2}')
    listed = [{"shard": f"shards/pool-00000{number}.tar", "images": 1} for number in range(2)]
    (run / "published/shards.json").write_text(json.dumps(listed))
    names, problems = discovered(run, run)
    assert names == ["shards/pool-000000.tar"]
    assert problems == [(str(run / "shards/pool-000001.tar"), "missing_shard")]
    account = Account.of(1, discover_files([str(run)]).problems)
    assert [entry["reason"] for entry in account.incomplete] == ["missing_shard"]
    for damage in ("", "{}", "[]", "{"):
        (run / "published/summary.json").write_text(damage)
        with pytest.raises(UsageError, match=f"curation unreadable: .* - {run} - rerun"):
            discover_files([str(run)])
