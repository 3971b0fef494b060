"""From paths to files: what is found, in which order, and what is said about the rest."""

import os
import shutil
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
from benchmark_sets import write_tar
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.sources import source_files
from dinoforge.sources.discover import SOURCE_REASONS, discover_files


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 8, 3), value, np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def names(files, root):
    return [Path(item.path).relative_to(root).as_posix() for item in files.items]


def reasons(files):
    assert all(entry["reason"] in SOURCE_REASONS for entry in files.problems)
    return {Path(entry["shard"]).name: entry["reason"] for entry in files.problems}


def test_folders_are_searched_to_the_bottom_in_the_order_of_names(tmp_path, monkeypatch):
    for name in ("b/2.png", "b/1.png", "a/deep/down/x.png", "c.png", "a.png"):
        picture(tmp_path / name)
    (tmp_path / "b/shard.tar").write_bytes(b"")
    expected = ["a.png", "c.png", "a/deep/down/x.png", "b/1.png", "b/2.png", "b/shard.tar"]
    assert names(discover_files([str(tmp_path)]), tmp_path) == expected
    walk = os.walk

    def shuffled(top, **options):
        for here, folders, files in walk(top, **options):
            folders.reverse()
            yield here, folders, files[::-1]

    monkeypatch.setattr(os, "walk", shuffled)
    assert names(discover_files([str(tmp_path)]), tmp_path) == expected


def test_hidden_files_and_folders_are_left_out_and_others_are_reported(tmp_path):
    picture(tmp_path / "seen.png")
    for name in (".hidden.png", ".cache/x.png", "._seen.png"):
        picture(tmp_path / name)
    for name in (".jpg", "..jpg", ".by_content"):
        shutil.copy(tmp_path / "seen.png", tmp_path / name)
    for name in ("notes.txt", ".notes"):
        (tmp_path / name).write_text("no image")
    os.mkfifo(tmp_path / ".pipe")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    files = discover_files([str(tmp_path)])
    assert names(files, tmp_path) == ["seen.png"]
    assert reasons(files) == {
        **dict.fromkeys([".hidden.png", "._seen.png", ".jpg", "..jpg", ".by_content"], "hidden"),
        ".cache": "hidden_folder",
        "notes.txt": "other_file",
        "gone.png": "unreadable",
    }


def test_content_makes_an_image_where_the_name_does_not(tmp_path):
    picture(tmp_path / "a.png")
    shutil.move(tmp_path / "a.png", tmp_path / "no_suffix")
    assert names(discover_files([str(tmp_path)]), tmp_path) == ["no_suffix"]


def test_what_is_no_regular_file_is_counted_and_never_opened(tmp_path):
    picture(tmp_path / "a.png")
    names_of_pipes = ["queue", "x.jpg", "y.tar", "z.tar.gz", "classes.txt", "a.json", "run.json"]
    for name in names_of_pipes:
        os.mkfifo(tmp_path / name)
    os.mkfifo(tmp_path / "CACHEDIR.TAG")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.png"))
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "to_pipe.jpg").symlink_to("queue")
    picture(tmp_path / "sub.jpg/b.png")
    os.mkfifo(tmp_path / "sub.jpg/run.json")
    files = discover_files([str(tmp_path)])
    assert names(files, tmp_path) == ["a.png", "sub.jpg/b.png"]
    counted = set(reasons(files).items())
    skipped = ["queue", "x.jpg", "y.tar", "z.tar.gz", "a.json", "run.json", "CACHEDIR.TAG"]
    skipped += ["s.png", "null.jpg", "zero", "to_pipe.jpg"]
    assert counted == {(name, "not_regular") for name in skipped}
    with pytest.raises(UsageError, match=r"no images and no tars \(1 not_regular\)"):
        discover_files([str(tmp_path / "y.tar")])


def test_what_cannot_be_opened_is_unreadable_whatever_its_name(tmp_path, monkeypatch):
    def refuse(path, limit=-1):
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("a.png", "no_suffix", "notes.txt"):
        picture(tmp_path / "x.png").rename(tmp_path / name)
    monkeypatch.setattr(source_files, "read_regular", refuse)
    files = discover_files([str(tmp_path)])
    assert names(files, tmp_path) == ["a.png"]
    assert reasons(files) == dict.fromkeys(["no_suffix", "notes.txt"], "unreadable")


def test_suffixes_of_compressed_tars(tmp_path):
    suffixes = [
        *("tar.gz", "tgz", "taz", "tar.bz2", "tbz2", "tbz", "tb2", "tz2", "tar.xz", "txz"),
        *("tar.zst", "tzst", "tar.lzma", "TAR.Z"),
    ]
    for suffix in suffixes:
        (tmp_path / f"a.{suffix}").write_bytes(b"x")
    assert sum(item.is_archive for item in discover_files([str(tmp_path)]).items) == len(suffixes)


def test_a_tar_is_one_by_content_where_the_name_is_not(tmp_path):
    with tarfile.open(tmp_path / "shard_0", "w") as tar:
        tar.add(picture(tmp_path / "a.png"), "a.png")
    files = discover_files([str(tmp_path)])
    assert names(files, tmp_path) == ["a.png", "shard_0"]
    assert [item.is_archive for item in files.items] == [False, True]


def test_links_are_followed_and_loops_end(tmp_path):
    picture(tmp_path / "in/here/1.png")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/here/up").symlink_to(tmp_path / "in/here")
    (tmp_path / "in/self").symlink_to(tmp_path / "in/self")
    picture(tmp_path / "elsewhere/2.png")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    files = discover_files([str(tmp_path / "in")])
    assert names(files, tmp_path / "in") == ["here/1.png", "linked/2.png"]
    assert reasons(files) == {"self": "unreadable", "loop": "same_file", "up": "same_file"}


@pytest.mark.parametrize(
    ("paths", "again"),
    [
        (["d", "d"], ["d/cat/1.png", "d/cat/2.png", "d/dog/3.png", "d/x.tar"]),
        (["d", "./d/", "d/dog"], ["d/cat/1.png", "d/cat/2.png", *["d/dog/3.png"] * 2, "d/x.tar"]),
        (["d", "link/dog"], ["link/dog/3.png"]),
        (["d", "d/*/1.png"], ["d/cat/1.png"]),
        (["d", "y.tar"], ["y.tar"]),
        (["d/{cat,cat}/*", "d/dog", "d/x.tar"], []),
    ],
)
def test_a_file_is_one_item_and_its_repetitions_are_named(tmp_path, monkeypatch, paths, again):
    monkeypatch.chdir(tmp_path)
    for name in ("cat/1", "cat/2", "dog/3"):
        picture(tmp_path / f"d/{name}.png")
    (tmp_path / "d/x.tar").write_bytes(b"")
    (tmp_path / "y.tar").symlink_to("d/x.tar")
    (tmp_path / "link").symlink_to("d")
    files = discover_files(paths)
    assert len(files.items) == 4
    assert sorted(entry["shard"] for entry in files.problems) == sorted(again)
    assert {entry["reason"] for entry in files.problems} <= {"same_file"}


def test_a_problem_inside_several_paths_counts_once(tmp_path):
    picture(tmp_path / "d/sub/1.png")
    (tmp_path / "d/sub/notes.txt").write_text("no image")
    files = discover_files([f"{tmp_path}/d", f"{tmp_path}/d/sub", f"{tmp_path}/d/**"])
    assert sorted(p["reason"] for p in files.problems) == ["other_file", *["same_file"] * 2]


def test_a_class_folder_that_is_a_link_to_another_is_named(tmp_path):
    picture(tmp_path / "a/1.png")
    (tmp_path / "b").symlink_to("a")
    files = discover_files([str(tmp_path)])
    assert names(files, tmp_path) == ["a/1.png"]
    (entry,) = files.problems
    assert (entry["shard"], entry["detail"]) == (f"{tmp_path}/b", f"as {tmp_path}/a")


@pytest.mark.parametrize("start", ["", "./", "{tmp}/", "g/../"])
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("g/**/*.png", ["g/1.png", "g/cat/2.png", "g/cat/deep/3.png"]),
        ("**/g/**/deep/*.png", ["g/cat/deep/3.png"]),
        ("g/*/**/3.png", ["g/cat/deep/3.png"]),
        ("g/**/**/[12].png", ["g/1.png", "g/cat/2.png"]),
        ("g/**", ["g/1.png", "g/cat/2.png", "g/cat/deep/3.png"]),
    ],
)
def test_two_stars_end_where_links_form_loops(tmp_path, monkeypatch, start, pattern, expected):
    monkeypatch.chdir(tmp_path)
    for name in ("1", "cat/2", "cat/deep/3", ".hidden/4"):
        picture(tmp_path / f"g/{name}.png")
    for name in ("loop", "cat/up", "cat/deep/up"):  # each pair doubles what a blind walk visits
        (tmp_path / "g" / name).symlink_to(tmp_path / "g")
    start = start.format(tmp=tmp_path)
    files = discover_files([start + pattern])
    assert [Path(item.path) for item in files.items] == [Path(start, name) for name in expected]
    assert {entry["reason"] for entry in files.problems} == {"same_file", "hidden_folder"}


def test_ranges_and_patterns_name_their_files_in_order(tmp_path):
    for number in (0, 1, 2, 10):
        picture(tmp_path / f"x-{number:06d}.png")
    ranged = discover_files([f"{tmp_path}/x-{{000000..000002}}.png"])
    assert names(ranged, tmp_path) == ["x-000000.png", "x-000001.png", "x-000002.png"]
    assert names(discover_files([f"{tmp_path}/x-*0.png"]), tmp_path) == [
        "x-000000.png",
        "x-000010.png",
    ]
    files = discover_files([f"{tmp_path}/x-00000{{0..1}}*.png"])
    assert names(files, tmp_path) == ["x-000000.png", "x-000001.png"]
    picture(tmp_path / "deep/er/y.png")
    assert names(discover_files([f"{tmp_path}/**/y.png"]), tmp_path) == ["deep/er/y.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{08..10}", ["08", "09", "10"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{09..100..91}", ["009", "100"]),
        ("{10..08}", ["10", "09", "08"]),
        ("{b,a}", ["b", "a"]),
        ("{0..1}-{2..3}", ["0-2", "0-3", "1-2", "1-3"]),
    ],
)
def test_braces_expand_as_in_the_shell(tmp_path, pattern, expected):
    for name in expected:
        picture(tmp_path / f"{name}.png")
    files = discover_files([f"{tmp_path}/{pattern}.png"])
    assert names(files, tmp_path) == [f"{name}.png" for name in expected]


@pytest.mark.parametrize("name", ["x{1.png", "x}.png", "x{}.png", "x{a}.png", r"x\{1,2.png"])
def test_braces_that_are_no_range_are_letters_of_a_name(tmp_path, name):
    picture(tmp_path / name)
    assert names(discover_files([f"{tmp_path}/{name}"]), tmp_path) == [name]
    assert names(discover_files([f"{tmp_path}/{name[:-4]}*"]), tmp_path) == [name]


def test_braces_around_absolute_paths_have_the_folder_above_as_their_root(tmp_path):
    for name in "ab":
        write_tar(tmp_path / name / "x.tar", {"1.png": b"x"})
    listed = discover_files([f"{{{tmp_path}/a,{tmp_path}/b}}"])
    assert [(file.path, file.root) for file in listed.items] == [
        (f"{tmp_path}/{name}/x.tar", str(tmp_path)) for name in "ab"
    ]


def test_unbalanced_braces_are_named_with_the_form_of_a_range(tmp_path):
    with pytest.raises(UsageError, match=r"braces are unbalanced - .*x\{0\.\.3\.png - write"):
        discover_files([f"{tmp_path}/x{{0..3.png"])


def test_a_gap_in_a_range_is_named(tmp_path):
    picture(tmp_path / "x-000000.png")
    with pytest.raises(UsageError, match=r"no such file or folder - .*x-000001\.png"):
        discover_files([f"{tmp_path}/x-{{000000..000001}}.png"])


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(tmp_path):
    picture(tmp_path / "x[1]{0..3}.png")
    files = discover_files([str(tmp_path / "x[1]{0..3}.png")])
    assert names(files, tmp_path) == ["x[1]{0..3}.png"]


def test_every_bad_path_is_reported_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("x")
    paths = [str(tmp_path / name) for name in ("none", "empty", "texts", "*.tar")]
    with pytest.raises(UsageError) as caught:
        discover_files([*paths, "", "x" * 5000])
    faults = [(fault.what, fault.where) for fault in caught.value.faults]
    assert faults == [
        ("no such file or folder", paths[0]),
        ("no images and no tars", paths[1]),
        ("no images and no tars (1 other_file)", paths[2]),
        ("no such file or folder", paths[3]),
        ("no such file or folder", ""),
        ("no such file or folder", "x" * 5000),
    ]


def test_an_added_or_replaced_file_changes_the_fingerprint(tmp_path):
    first = picture(tmp_path / "1.png")
    before = discover_files([str(tmp_path)]).fingerprint()
    assert discover_files([str(tmp_path)]).fingerprint() == before
    picture(tmp_path / "2.png")
    added = discover_files([str(tmp_path)]).fingerprint()
    os.utime(first, ns=(1, 1))
    assert len({before, added, discover_files([str(tmp_path)]).fingerprint()}) == 3


def test_a_folder_that_ends_like_a_tar_is_a_folder(tmp_path):
    picture(tmp_path / "photos.tar/1.png")
    assert names(discover_files([str(tmp_path)]), tmp_path) == ["photos.tar/1.png"]


def test_the_folders_of_a_pattern_that_exist_are_no_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run[1]{a,b}*", "run1a"):
        picture(tmp_path / name / "a.png")
    for start in ("", "./", f"{tmp_path}/"):
        files = discover_files([f"{start}run[1]{{a,b}}*/*.png"])
        assert [item.path for item in files.items] == [f"{start}run[1]{{a,b}}*/a.png"]
    files = discover_files(["run[1]{a,b}/?.png"])  # no such folder: a pattern
    assert [item.path for item in files.items] == ["run1a/a.png"]
