"""Which images enter, from where, in which order, with which class."""

import io
import json
import os
import shutil
import tarfile
import zlib

import numpy as np
import pool as pools
import pytest
from PIL import Image

from dinoforge.config import load_config
from dinoforge.curation.config import CurationConfig
from dinoforge.errors import UsageError
from dinoforge.runs import read_facts
from dinoforge.shards.reading import read_samples
from dinoforge.sources.image_set import open_images
from dinoforge.tables import read_tables

PLAIN = ("filter.min_std=0", "duplicates.threshold=1", "filter.min_side=8", "export.order=id")


def png(number):
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Ten images in two class folders."""
    for number in range(10):
        path = tmp_path / f"photos/{'cat' if number < 4 else 'dog'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return tmp_path / "photos"


def tar_of(path, labels, names=None):
    """Write a tar with one image per label, and the list of classes beside it."""
    path.parent.mkdir(exist_ok=True)
    if names is not None:
        (path.parent / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            image = png(zlib.crc32(str(path).encode()) + number)
            for name, data in (("png", image), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{number:04d}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def run(tmp_path, sources, *more, name="run", **how):
    given = [f"sources={json.dumps(sources)}", f"out={tmp_path / name}", *PLAIN, *more]
    summary = pools.curated(load_config(CurationConfig, None, given), **how)
    return summary, pools.ledger(tmp_path / name)


def test_an_image_of_two_sources_belongs_to_the_first_whatever_path_leads_to_it(
    photos, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(photos)
    sources = [
        {"role": "seed", "paths": ["photos/cat"]},
        {"role": "pool", "paths": [str(photos), "./photos", "link/dog", "photos/*/5.png"]},
    ]
    _, rows = run(tmp_path, sources)
    assert [row["role"] for row in rows] == ["seed"] * 4 + ["pool"] * 6
    assert sorted(row["key"].rpartition("/")[2] for row in rows) == [str(n) for n in range(10)]


def test_a_source_that_another_has_emptied_is_reported(photos, tmp_path):
    sources = [{"role": role, "paths": [str(photos)]} for role in ("seed", "pool")]
    with pytest.raises(
        UsageError, match=r"no images - .* no earlier or reference source lists the same images"
    ):
        run(tmp_path, sources)


@pytest.mark.parametrize("role", ["pool", "as_is"])
def test_what_a_reference_selects_is_a_reference_whatever_the_order(photos, tmp_path, role, caplog):
    reference = {"role": "reference", "paths": [f"{photos}/cat", str(photos)], "keys": "[0-2]"}
    given = [{"role": role, "paths": [str(photos)], "keys": "*[0-7]"}, reference]
    more = ("retrieve.mode=none",)
    for sources in (given, given[::-1]):
        summary, rows = run(tmp_path, sources, *more, on_change="update")
        roles = {row["key"].rpartition("/")[2]: row["role"] for row in rows}
        assert roles == {str(n): "reference" if n < 3 else role for n in range(8)}
        assert summary.not_selected == 2
        assert "3 images of other sources are also in a reference source" in caplog.text
        caplog.clear()
    facts = read_facts(tmp_path / "run")["sources"]
    assert (facts["images"], facts["not_selected"], facts["problems"]) == (8, 2, {"same_file": 4})


def test_key_patterns_choose_and_the_rest_is_left_to_the_next_source(photos, tmp_path):
    sources = [
        {"role": "seed", "paths": [str(photos)], "keys": "cat/*", "name": "cats"},
        {"role": "pool", "paths": [str(photos)]},
    ]
    _, rows = run(tmp_path, sources)
    assert [row["source"] for row in rows] == ["cats"] * 4 + ["pool"] * 6
    with pytest.raises(UsageError, match="no images under the key pattern bird"):
        run(tmp_path, [{"role": "pool", "paths": [str(photos)], "keys": "bird*"}], name="b")


@pytest.mark.parametrize("pick", ["first", "random"])
def test_limits_take_so_many_and_leave_the_others_to_the_next_source(photos, tmp_path, pick):
    sources = [
        {"role": "seed", "paths": [str(photos)], "limit": 3, "pick": pick},
        {"role": "pool", "paths": [str(photos)], "limit": 100},
    ]
    keys = {}
    for seed in (0, 0, 1):
        _, rows = run(tmp_path, sources, f"seed={seed}", name=f"run{len(keys)}")
        assert [row["role"] for row in rows] == ["seed"] * 3 + ["pool"] * 7
        assert len({row["shard"] for row in rows}) == 10
        keys[len(keys)] = [row["key"] for row in rows]
    assert keys[0] == keys[1]
    if pick == "first":
        assert keys[0] == keys[2]
        assert keys[0][:3] == ["cat/0", "cat/1", "cat/2"]
    else:
        assert keys[0] != keys[2]
        assert keys[0][:3] == sorted(keys[0][:3]), "the order inside a source stays"


def test_a_link_to_an_image_of_the_source_is_named_and_not_counted_twice(photos, tmp_path):
    (photos / "cat/again.png").symlink_to(next((photos / "dog").iterdir()))
    summary, rows = run(tmp_path, [{"role": "pool", "paths": [str(photos)]}])
    assert (len(rows), summary.problems) == (10, {"same_file": 1})


def test_no_class_number_means_two_things_where_folders_and_tars_meet(photos, tmp_path):
    tar_of(tmp_path / "tars/x.tar", [0, 1, 2], ["bird", "cat", "boat"])
    sources = [{"role": "pool", "paths": [str(tmp_path / "tars"), str(photos)]}]
    summary, rows = run(tmp_path, sources)
    labels = {row["key"]: row["label"] for row in rows}
    assert [labels[f"{n:04d}"] for n in range(3)] == [0, 1, 2]
    assert {labels[f"cat/{n}"] for n in range(4)} == {1}
    assert {labels[f"dog/{n}"] for n in range(4, 10)} == {3}
    assert (tmp_path / "run/shards/classes.txt").read_text() == "bird\ncat\nboat\ndog\n"
    assert summary.problems == {}


def exported(folder):
    """Class numbers in the shards by key in the source, and the names in the list beside them."""
    numbers = {}
    for tar in sorted((folder / "shards").glob("*.tar")):
        for _, members in read_samples(tar):
            notes = json.loads(members["json"])
            numbers[notes["source"], notes["key"]] = int(members.get("cls", b"-1"))
    lists = sorted((folder / "shards").glob("classes.*"))
    assert len(lists) < 2
    listed = lists[0].read_text().splitlines() if lists else []
    if lists and lists[0].suffix == ".tsv":
        return numbers, {int(number): name for number, name in (row.split("\t") for row in listed)}
    return numbers, dict(enumerate(listed))


def test_lists_of_several_sources_share_no_number(tmp_path):
    tar_of(tmp_path / "a/a.tar", [0, 1], ["cat", "dog"])
    tar_of(tmp_path / "b/b.tar", [0, 1, 2], ["bird", "dog", "fish"])
    sources = [{"paths": [str(tmp_path / name)], "name": name} for name in "ab"]
    _, rows = run(tmp_path, sources)
    numbers, names = exported(tmp_path / "run")
    assert list(numbers.values()) == [row["label"] for row in rows] == [0, 1, 2, 1, 3]
    assert names == {0: "cat", 1: "dog", 2: "bird", 3: "fish"}
    spaces = [row["class_space"] for row in rows]
    assert len(set(spaces)) == 2
    assert all(space.startswith("list:") for space in spaces)


def test_the_shards_of_one_list_keep_its_numbers_and_all_its_names(tmp_path):
    tar_of(tmp_path / "a/a.tar", [2, 0, 2], ["crane", "dog", "crane", "cow"])
    run(tmp_path, [{"paths": [str(tmp_path / "a")]}])
    numbers, names = exported(tmp_path / "run")
    assert list(numbers.values()) == [2, 0, 2]
    assert names == {0: "crane", 1: "dog", 2: "crane", 3: "cow"}


def test_numbers_alone_stay_and_beside_names_they_are_listed_with_gaps(photos, tmp_path):
    tar_of(tmp_path / "b/b.tar", [5_000_000_000, -1, 7])
    bare = {"paths": [str(tmp_path / "b")], "name": "bare"}
    run(tmp_path, [bare])
    numbers, names = exported(tmp_path / "run")
    assert (list(numbers.values()), names) == ([5_000_000_000, -1, 7], {})
    more = [bare, {"paths": [str(photos)], "name": "photos"}]
    _, rows = run(tmp_path, more, on_change="update")
    numbers, names = exported(tmp_path / "run")
    listed = {7: "7", 5_000_000_000: "5000000000", 5_000_000_001: "cat", 5_000_000_002: "dog"}
    assert names == listed
    assert list(numbers.values()) == [row["label"] for row in rows]
    # Without names again: no list of the earlier recipe stays beside the shards.
    run(tmp_path, [bare], on_change="update")
    assert exported(tmp_path / "run")[1] == {}


def test_what_is_exported_is_read_back_with_the_same_classes(tmp_path):
    names = ("cat", "a\nb", "cafe\u0301", "10", "caf\u00e9", " x\u2028y")
    for number, name in enumerate(names):
        path = tmp_path / f"photos/{name}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    tar_of(tmp_path / "b/b.tar", [1, 0], ["\ufeffowl", "cat"])
    run(
        tmp_path, [{"paths": [str(tmp_path / name) for name in ("photos", "b")]}], "export.order=id"
    )
    numbers, names = exported(tmp_path / "run")
    assert sorted(names.values()) == sorted(["10", "a\\nb", "caf\u00e9", "cat", "owl", "x\\u2028y"])
    images = open_images([str(tmp_path / "run")], cache=tmp_path / "cache")
    assert images.labels.tolist() == list(numbers.values())
    assert [names[at] for at in images.labels.tolist()] == images.table.column(
        "class_name"
    ).to_pylist()
    by_key = {key: at for (_, key), at in numbers.items()}
    assert by_key["cafe\u0301/2"] == by_key["caf\u00e9/4"]
    assert by_key["cat/0"] == by_key["0000"]


def test_names_that_begin_with_numbers_are_read_back_as_they_are(tmp_path):
    for number, name in enumerate(("1 cat", "2 dog")):
        path = tmp_path / f"photos/{name}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    run(tmp_path, [{"paths": [str(tmp_path / "photos")]}])
    images = open_images([str(tmp_path / "run")], cache=tmp_path / "cache")
    assert images.table.column("class_name").to_pylist() == ["1 cat", "2 dog"]


def test_a_recipe_renames_the_classes_of_a_source(photos, tmp_path):
    tar_of(tmp_path / "b/b.tar", [0, 1, 255])
    renames = {"0": "dog", "255": ""}
    sources = [{"paths": [str(photos)]}, {"paths": [str(tmp_path / "b")], "classes": renames}]
    _, rows = run(tmp_path, sources)
    labels = {row["key"]: row["label"] for row in rows}
    assert [labels[f"{n:04d}"] for n in range(3)] == [labels["dog/5"], 1, -1]
    sources[1]["classes"] = {"7": "dog"}
    with pytest.raises(UsageError, match=r"no class `7` - `sources\[1\].classes` - .*: 0, 1, 255"):
        run(tmp_path, sources, name="other")


def test_classes_of_reference_images_never_stop_a_curation(tmp_path):
    tar_of(tmp_path / "a/a.tar", [0, 1], ["cat", "dog"])
    tar_of(tmp_path / "b/b.tar", [0, 1], ["bird", "dog"])
    tar_of(tmp_path / "test/t.tar", [0, 7])
    sources = [{"paths": [str(tmp_path / name)]} for name in "ab"]
    sources.append({"role": "reference", "paths": [str(tmp_path / "test")]})
    _, rows = run(tmp_path, sources)
    assert [row["label"] for row in rows] == [0, 1, 2, 1, -1, -1]
    sources[2]["role"] = "pool"
    with pytest.raises(UsageError, match="any of 2 lists: 0, 7"):
        run(tmp_path, sources, name="other")


@pytest.mark.parametrize("pool", ["numbers", "folders"])
def test_the_list_of_reference_images_names_no_class_of_the_pool(tmp_path, caplog, pool):
    tar_of(tmp_path / "pool/a.tar", [0, 1])
    if pool == "folders":
        (tmp_path / "pool/a.tar").unlink()
        for number in range(2):
            (tmp_path / f"pool/{number}").mkdir()
            (tmp_path / f"pool/{number}/x.png").write_bytes(png(number))
    tar_of(tmp_path / "test/t.tar", [0, 1], ["cat", "dog"])
    sources = [
        {"role": "reference", "paths": [str(tmp_path / "test")]},
        {"paths": [str(tmp_path / "pool")]},
    ]
    _, rows = run(tmp_path, sources)
    assert [row["label"] for row in rows] == [-1, -1, 0, 1]
    assert exported(tmp_path / "run")[1] == ({0: "0", 1: "1"} if pool == "folders" else {})
    assert "would call `0` `cat`, `1` `dog`" in caplog.text
    # With a list of its own, the pool and the reference images share the classes.
    (tmp_path / "pool/classes.txt").write_text("cat\ndog\n")
    caplog.clear()
    _, rows = run(tmp_path, sources, name="listed")
    assert [row["label"] for row in rows] == [0, 1] * 2
    assert exported(tmp_path / "listed")[1] == {0: "cat", 1: "dog"}
    assert "would call" not in caplog.text


def test_images_without_a_label_are_counted_by_source(photos, tmp_path, caplog):
    caplog.set_level("INFO")
    tar_of(tmp_path / "a/a.tar", [0, -1, "nan", "None", ""])
    sources = [
        {"name": "a", "paths": [str(tmp_path / "a")]},
        {"name": "cats", "paths": [str(photos / "cat")]},
    ]
    cats = len(list((photos / "cat").glob("*")))
    run(tmp_path, sources)
    expected = f"without a label: 4 of 5 of source a, {cats} of {cats} of source cats"
    assert expected in caplog.text
    caplog.clear()
    run(tmp_path, [sources[1]], name="none")
    assert "without a label" not in caplog.text


def test_a_label_outside_its_list_names_the_tar_and_the_list(tmp_path):
    tar_of(tmp_path / "a/a.tar", [1, 2], ["cat", "dog"])
    with pytest.raises(
        UsageError, match=r"not in the list of classes: 2 - .*a\.tar, .*a/classes\.txt"
    ):
        run(tmp_path, [{"paths": [str(tmp_path / "a")]}])


def test_a_curation_run_is_a_source_and_an_unfinished_one_is_not(photos, tmp_path):
    sources = [{"role": "pool", "paths": [str(photos)]}]
    first, before = run(tmp_path, sources, name="one")
    again = [{"role": "pool", "paths": [str(tmp_path / "one")]}]
    second, after = run(tmp_path, again, name="two")
    assert second.images == first.kept == 10
    assert second.problems == {}
    assert {row["sha256"] for row in after} == {row["sha256"] for row in before}
    by_hash = {row["sha256"]: row["label"] for row in before}
    assert all(row["label"] == by_hash[row["sha256"]] for row in after)
    assert (tmp_path / "two/shards/classes.txt").read_text() == "cat\ndog\n"
    (tmp_path / "one/published/summary.json").unlink()
    with pytest.raises(UsageError, match=f"the curation is not finished - {tmp_path / 'one'} - "):
        run(tmp_path, again, name="three")


def test_as_is_images_are_kept_whatever_they_show(photos, tmp_path):
    copy = tmp_path / "kept/copy.png"
    copy.parent.mkdir()
    copy.write_bytes((photos / "dog/5.png").read_bytes())
    sources = [
        {"role": "pool", "paths": [str(photos)]},
        {"role": "as_is", "paths": [str(copy.parent)]},
        {"role": "reference", "paths": [str(photos / "cat"), str(copy)], "name": "test"},
    ]
    with pytest.raises(UsageError, match="1 of 1 images are also in a reference source - "):
        run(tmp_path, sources)
    other = tmp_path / "test/x.png"
    other.parent.mkdir()
    other.write_bytes(copy.read_bytes())
    sources[2]["paths"] = [str(other)]
    summary, rows = run(tmp_path, sources)
    reasons = {row["key"]: row["reason"] for row in rows}
    assert reasons["copy"] == "as_is"
    assert reasons["dog/5"] == "exact_duplicate"
    assert reasons["x"] == "reference"
    assert summary.kept == 10


def test_what_was_unusual_and_accepted_is_noted_and_counted(tmp_path):
    (tmp_path / "images").mkdir()
    for number, suffix in enumerate(("jpg", "jpg", "gif")):
        y, x = np.mgrid[0:40, 0:40]
        pixels = np.stack([x * 5, y * 5, (x * y * (number + 3)) % 256], axis=-1).astype(np.uint8)
        frames = [Image.fromarray(255 - pixels)] if suffix == "gif" else []
        more = {"save_all": True, "append_images": frames} if frames else {}
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.{suffix}", **more)
    cut = tmp_path / "images/1.jpg"
    cut.write_bytes(cut.read_bytes()[:-2])
    paths = [str(tmp_path / "images")]
    sources = [{"role": "pool", "paths": paths}]
    more = ("retrieve.mode=none", "plant.count=0", "partition_images=2")
    summary = pools.curated(pools.recipe(sources, tmp_path / "run", *more))
    assert summary.notes == {"first_frame": 1, "missing_end_marker": 1}
    assert summary.undecodable == {}
    facts = read_tables(sorted((tmp_path / "run/curation/20-inspect").glob("*.facts.parquet")))
    assert facts.column("notes").to_pylist() == ["", "missing_end_marker", "first_frame"]
    assert facts.column("format").to_pylist() == ["JPEG", "JPEG", "GIF"]


def test_an_image_that_changed_under_the_run_is_reported_with_advice_that_helps(tmp_path):
    image = tmp_path / "images/a.png"
    image.parent.mkdir()
    Image.effect_noise((40, 40), 90).save(image)
    given = [{"role": "pool", "paths": [str(image.parent)]}], tmp_path / "run"
    more = ("retrieve.mode=none", "plant.count=0")
    pools.curated(pools.recipe(*given, *more))
    facts = image.stat()
    image.write_bytes(bytes(facts.st_size))
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    shutil.rmtree(tmp_path / "run/curation/30-embed")
    with pytest.raises(UsageError, match=r"decoded before .* restore it, or start with --fresh"):
        pools.curated(pools.recipe(*given, *more))
