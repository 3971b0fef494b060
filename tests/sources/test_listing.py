"""One row an image: keys, classes, tars of every kind, names of every kind."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import tracemalloc

import numpy as np
import pytest
import zstandard
from PIL import Image

from dinoforge.errors import UsageError
from dinoforge.files import path_text
from dinoforge.images import Undecodable
from dinoforge.shards.reading import RangeReader
from dinoforge.sources.discover import discover_files
from dinoforge.sources.image_set import open_images
from dinoforge.sources.kept_listing import list_images


def png(value=0, side=8):
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tar_of(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def rows(listing, *columns):
    return list(zip(*(listing.table.column(name).to_pylist() for name in columns), strict=True))


def listed(tmp_path, *paths):
    return list_images([str(path) for path in paths], unpacked=tmp_path / "unpacked")


SIX = [
    (f"{i:04d}.{ext}", data)
    for i in range(6)
    for ext, data in (("cls", b"%d" % i), ("png", png(i)))
]


def test_class_folders_give_names_and_numbers_and_keys_keep_the_folders(tmp_path):
    for name in ("pool/dog/sub/1.png", "pool/cat/2.png", "pool/loose.png", "pool/cat/a.b.png"):
        put(tmp_path / name, png())
    listed_rows = rows(listed(tmp_path, tmp_path / "pool"), "key", "label", "class_name")
    assert listed_rows == [
        ("loose", -1, ""),
        ("cat/2", 0, "cat"),
        ("cat/a.b", 0, "cat"),
        ("dog/sub/1", 1, "dog"),
    ]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        # Class folders and keys are those below the part without magic characters.
        (["*"], {"train/a/1": "train", "train/b/1": "train", "val/a/1": "val"}),
        (["train"], {"a/1": "a", "b/1": "b"}),
        (["train/*"], {"a/1": "a", "b/1": "b"}),
        (["train/*/*.png"], {"a/1": "a", "b/1": "b"}),
        (["./train/[ab]/?.png"], {"a/1": "a", "b/1": "b"}),
        (["train/**"], {"a/1": "a", "b/1": "b"}),
        (["train/**/1.png"], {"a/1": "a", "b/1": "b"}),
        # Braces stand for paths: roots if they have class folders, else class folders.
        (["{train,val}"], {"a/1": "a", "b/1": "b", "a/1.2": "a"}),
        (["{train,val}/*/*.png"], {"a/1": "a", "b/1": "b", "a/1.2": "a"}),
        (["train/{b,a}"], {"b/1": "b", "a/1": "a"}),
        (["train/{b,a}/*.png"], {"b/1": "b", "a/1": "a"}),
        (["train/{b,a}/1.png"], {"b/1": "b", "a/1": "a"}),
        # Class folders given themselves are no class folders; keys stay distinct.
        (["train/a", "train/b"], {"1": "", "1.2": ""}),
        (["train/a/*.png", "train/b/1.png"], {"1": "", "1.2": ""}),
        (["train", "val/*/*"], {"a/1": "a", "b/1": "b", "a/1.2": "a"}),
    ],
)
def test_keys_and_classes_of_patterns(tmp_path, monkeypatch, paths, expected):
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png"):
        put(tmp_path / "data" / name, png())
    monkeypatch.chdir(tmp_path / "data")
    for start in ("", f"{tmp_path}/data/"):
        listing = list_images([start + path for path in paths], unpacked=tmp_path)
        assert rows(listing, "key", "class_name") == list(expected.items())


@pytest.mark.parametrize("path", ["data", "data/*", "data/*/*.tar", "data/{a,b}/t.tar"])
def test_a_list_at_the_start_of_a_pattern_names_the_labels_of_tars(tmp_path, path):
    for name in ("a", "b"):
        put(tmp_path / "data" / name / "t.tar", tar_of(SIX[:4]))
    put(tmp_path / "data/classes.txt", b"bird\nboat\n")
    listing = listed(tmp_path, tmp_path / path)
    assert rows(listing, "class_name") == [("bird",), ("boat",)] * 2


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["all"], ["cat", "bird", "fish"]),
        (["all/y.tar"], ["bird"]),
        (["deep", "b"], ["bird", "bird"]),  # up to the root of the file behind the link
        (["deep"], [""]),
        (["top"], ["cat"]),
        (["near"], ["ant"]),
    ],
)
def test_a_link_to_a_tar_has_the_list_beside_the_tar_itself(tmp_path, paths, names):
    for name in ("a/x.tar", "b/y.tar", "b/deep/z.tar"):
        put(tmp_path / name, tar_of(SIX[:2]))
    for name, text in {
        "a": "cat",
        "b": "bird",
        "top": "ox",
        "near": "ant",
        "all/z": "fish",
    }.items():
        put(tmp_path / name / "classes.txt", text.encode())
    for name, link in {
        "all/x.tar": "../a/x.tar",
        "all/y.tar": "../b/y.tar",
        "all/z/z.tar": "../../b/deep/z.tar",
        "top/x/x.tar": "../../a/x.tar",  # the list above the link is farther than the tar's own
        "near/x.tar": "../a/x.tar",
        "deep/z.tar": "../b/deep/z.tar",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(link)
    listing = listed(tmp_path, *(tmp_path / path for path in paths))
    assert rows(listing, "class_name") == [(name,) for name in names]
    mark = discover_files([str(tmp_path / "all/x.tar")]).fingerprint()
    put(tmp_path / "a/classes.txt", b"cow")
    assert discover_files([str(tmp_path / "all/x.tar")]).fingerprint() != mark


def test_two_lists_that_differ_are_reported_once_if_a_label_needs_them(tmp_path, caplog):
    put(tmp_path / "x.tar", tar_of(SIX))
    put(tmp_path / "y.tar", tar_of(SIX[:2]))
    put(tmp_path / "classes.txt", b"a\nb\nc\nd\ne\nf\n")
    put(tmp_path / "classes.tsv", b"0\ta\n")
    listed(tmp_path, tmp_path)
    line = f"{tmp_path}/classes.txt is used, {tmp_path}/classes.tsv is not"
    assert caplog.text.count(line) == 1


def test_class_folders_inside_a_tar_are_no_labels_and_the_log_has_their_number(tmp_path, caplog):
    caplog.set_level("INFO")
    line = "2 images in folders inside tars have no label"
    put(tmp_path / "a.tar", tar_of([("cat/1.png", png()), ("./dog/1.png", png())]))
    listing = listed(tmp_path, tmp_path / "a.tar")
    assert rows(listing, "class_name") == [("",)] * 2
    assert line in caplog.text
    put(tmp_path / "b.tar", tar_of([("cat/1.png", png()), ("cat/1.cls", b"3")]))
    put(tmp_path / "c.tar", tar_of([("./1.png", png()), ("2.png", png())]))
    caplog.clear()
    listed(tmp_path, tmp_path / "b.tar", tmp_path / "c.tar")
    assert "inside tars" not in caplog.text


def test_images_of_one_stem_have_keys_of_their_own(tmp_path):
    for name in ("a.jpg", "a.png", "a.2019.01.png", "a.2019.02.png", "b/a.png", "a.v1", "a.v2"):
        put(tmp_path / "pool" / name, png())
    keys = [key for (key,) in rows(listed(tmp_path, tmp_path / "pool"), "key")]
    assert keys == ["a.2019.01", "a.2019.02", "a", "a.png", "a.v1", "a.v2", "b/a"]


def test_a_class_is_listed_with_the_space_that_it_belongs_to(tmp_path):
    samples = {"0": b"1", "1": b"", "2": b"-1", "3": b"owl", "4": b"x" * 300, "5": b"bird"}
    members = [(f"{k}.{e}", d) for k, c in samples.items() for e, d in (("cls", c), ("png", png()))]
    put(tmp_path / "listed/sub/x.tar", tar_of(members))
    put(tmp_path / "listed/classes.txt", b"bird\ncat\n")
    put(tmp_path / "bare.tar", tar_of(members))
    for name in ("cat/1.png", "-1/2.png", "cafe\u0301/3.png", "loose.png"):
        put(tmp_path / "folders" / name, png())
    listing = listed(tmp_path, *(tmp_path / name for name in ("listed", "bare.tar", "folders")))
    (space,) = listing.class_lists
    assert rows(listing, "label", "class_name", "class_space") == [
        *((1, "cat", space), (-1, "", ""), (-1, "", ""), (3, "owl", "names"), (-1, "", "")),
        (0, "bird", space),
        *((1, "", "numbers"), (-1, "", ""), (-1, "", ""), (3, "owl", "names"), (-1, "", "")),
        (0, "bird", "names"),
        *((-1, "", ""), (-1, "", ""), (1, "caf\u00e9", "names"), (2, "cat", "names")),
    ]
    reasons = [entry["reason"] for entry in listing.problems]
    assert sorted(reasons) == ["long_label"] * 2 + ["no_label"] * 4


def test_samples_of_tars_have_labels_and_names_from_the_list_beside(tmp_path):
    put(tmp_path / "a/x.tar", tar_of(SIX[:4]))
    put(tmp_path / "a/classes.txt", b"bird\nboat\n")
    put(tmp_path / "b/x.tar", tar_of([("0.png", png()), ("0.cls", b"boat"), ("1.png", png(1))]))
    put(tmp_path / "b/classes.tsv", b"0\tn01\tbird\n1\tn02\tboat\n")
    listing = listed(tmp_path, tmp_path / "a/x.tar", tmp_path / "b/x.tar")
    assert rows(listing, "key", "label", "class_name") == [
        ("0000", 0, "bird"),
        ("0001", 1, "boat"),
        ("0", 1, "boat"),
        ("1", -1, ""),
    ]
    assert [problem["reason"] for problem in listing.problems] == ["no_label"]


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("x.tar.gz", gzip.compress),
        (f"{'x' * 251}.tgz", gzip.compress),  # as long as names may be
        ("x.tar", gzip.compress),
        ("x.tar.bz2", bz2.compress),
        ("x.tar.xz", lzma.compress),
        ("x.tar.zst", lambda data: zstandard.ZstdCompressor().compress(data)),
        ("x.tzst", lambda data: b"P*M\x18\4\0\0\0size" + zstandard.ZstdCompressor().compress(data)),
    ],
)
def test_compressed_tars_give_what_the_plain_tar_gives(tmp_path, name, compress):
    put(tmp_path / "plain.tar", tar_of(SIX))
    put(tmp_path / name, compress(tar_of(SIX)))
    columns = ("key", "member", "offset", "size", "label")
    packed = listed(tmp_path, tmp_path / name)
    assert rows(packed, *columns) == rows(listed(tmp_path, tmp_path / "plain.tar"), *columns)
    assert packed.problems == []
    images = open_images([str(tmp_path / name)], cache=tmp_path / "cache")
    assert [int(images.decode(at)[0, 0, 0]) for at in range(6)] == list(range(6))


def zstd(data):
    return zstandard.ZstdCompressor().compress(data)


# Compressed bytes with something wrong -> the reasons noted besides those of the tar in them.
DAMAGE = {
    "cut": lambda data: data[:-30],
    "cut in the checksum": lambda data: data[:-2],
    "a flipped bit": lambda data: data[:90] + bytes([data[90] ^ 1]) + data[91:],
}


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_a_stream_is_reported_each_time(tmp_path, compress, damage):
    put(tmp_path / "x.tar", DAMAGE[damage](compress(tar_of(SIX))))
    for _ in range(2):  # the second time the copy is there
        problems = [(p["shard"], p["reason"]) for p in listed(tmp_path, tmp_path).problems]
        assert (str(tmp_path / "x.tar"), "damaged_stream") in problems or (
            # A checksum is optional in this format, and the frame is whole without it.
            compress is zstd and damage == "a flipped bit"
        )


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_what_follows_a_stream_is_damage_only_if_the_archive_has_not_ended(
    tmp_path, compress, caplog
):
    caplog.set_level("INFO")
    text = "1,004 bytes after the end of the compressed data are not read"
    put(tmp_path / "x.tar", compress(tar_of(SIX)) + b"text" * 251)
    for _ in range(2):  # the second time the copy is there
        listing = listed(tmp_path, tmp_path / "x.tar")
        assert (listing.table.num_rows, listing.problems) == (6, [])
        assert f"{tmp_path}/x.tar: {text}" in caplog.messages
        caplog.clear()
    put(tmp_path / "y.tar", compress(tar_of(SIX)[:4096]) + b"text" * 251)
    problems = listed(tmp_path, tmp_path / "y.tar").problems
    assert [p["detail"] for p in problems if p["reason"] == "damaged_stream"] == [text]


def test_zstd_with_its_longest_window_is_read(tmp_path):
    how = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=False, hash_log=6)
    stream = zstandard.ZstdCompressor(compression_params=how).compressobj()
    put(tmp_path / "x.tar.zst", stream.compress(tar_of(SIX)) + stream.flush())
    listing = listed(tmp_path, tmp_path / "x.tar.zst")
    assert (listing.table.num_rows, listing.problems) == (6, [])


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_a_compressed_tar_without_a_suffix_is_found_by_its_content(tmp_path, compress):
    put(tmp_path / "pool/batch", compress(tar_of(SIX)))
    put(tmp_path / "pool/notes", compress(b"text" * 999))
    put(tmp_path / "pool/cut", compress(tar_of(SIX))[:12])
    listing = listed(tmp_path, tmp_path / "pool")
    assert listing.table.num_rows == 6
    problems = [(p["shard"].rpartition("/")[2], p["reason"]) for p in listing.problems]
    assert problems == [("cut", "other_file"), ("notes", "other_file")]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_padding_behind_a_stream_is_no_damage(tmp_path, compress):
    put(tmp_path / "x.tar", compress(tar_of(SIX)) + bytes(8192))
    listing = listed(tmp_path, tmp_path / "x.tar")
    assert (listing.table.num_rows, listing.problems) == (6, [])


def test_a_few_bytes_that_stand_for_gigabytes_take_no_memory(tmp_path):
    put(tmp_path / "x.tar.bz2", bz2.compress(bytes(64 << 20)))
    listed(tmp_path, put(tmp_path / "imports.tar", tar_of(SIX)))  # what is imported late is large
    tracemalloc.start()
    assert listed(tmp_path, tmp_path / "x.tar.bz2").table.num_rows == 0
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_a_damaged_stream_gives_what_was_before_and_names_the_file_that_the_user_knows(tmp_path):
    packed = gzip.compress(b"".join([tar_of(SIX)[:9000], os.urandom(30_000)]))
    put(tmp_path / "cut.tar.gz", packed[:20_000])
    listing = listed(tmp_path, tmp_path / "cut.tar.gz")
    assert 3 <= listing.table.num_rows <= 6
    assert {problem["shard"] for problem in listing.problems} == {str(tmp_path / "cut.tar.gz")}


def test_names_that_are_no_utf8_are_listed_read_and_reported(tmp_path):
    for name in (b"caf\xe9.png", b"line\nbreak.png"):
        put(tmp_path / "pool" / os.fsdecode(name), png(7))
    for name in (b"n\xf6.txt", b"\xfc.tar"):
        put(tmp_path / "pool" / os.fsdecode(name), b"text")
    images = open_images([str(tmp_path / "pool")], cache=tmp_path / "cache")
    keys = images.table.column("key").to_pylist()
    assert keys == ["caf\\xe9", "line\nbreak"]
    assert [int(images.decode(at)[0, 0, 0]) for at in range(2)] == [7, 7]
    reasons = {problem["reason"]: problem["shard"] for problem in images.problems}
    assert reasons == {
        "other_file": f"{tmp_path}/pool/n\\xf6.txt",
        "not_a_tar": f"{tmp_path}/pool/\\xfc.tar",
    }
    json.dumps(images.problems).encode("utf-8")


def test_tars_with_names_that_are_no_utf8_are_read(tmp_path):
    put(tmp_path / "pool" / os.fsdecode(b"\xe4.tar"), tar_of(SIX))
    put(tmp_path / "pool" / os.fsdecode(b"\xe4.tar.gz"), gzip.compress(tar_of(SIX)))
    images = open_images([str(tmp_path / "pool")], cache=tmp_path / "cache")
    assert len(images) == 12
    assert {int(images.decode(at)[0, 0, 0]) for at in range(12)} == set(range(6))


def test_a_wrong_suffix_changes_nothing(tmp_path):
    put(tmp_path / "pool/png.jpg", png(9))
    images = open_images([str(tmp_path / "pool")], cache=tmp_path / "cache")
    assert int(images.decode(0)[0, 0, 0]) == 9


def test_a_file_that_shrank_or_went_is_unreadable_not_an_error(tmp_path):
    first = put(tmp_path / "pool/1.png", png(1, side=64))
    second = put(tmp_path / "pool/2.png", png(2))
    images = open_images([str(tmp_path / "pool")], cache=tmp_path / "cache")
    first.write_bytes(b"short")
    second.unlink()
    for at in range(2):
        with pytest.raises(Undecodable, match="unreadable"):
            images.decode(at)


def test_no_images_at_all_shows_why(tmp_path):
    put(tmp_path / "x.tar", b"no tar")
    with pytest.raises(UsageError, match=r"no images \(1 not_a_tar\)"):
        open_images([str(tmp_path / "x.tar")], cache=tmp_path / "cache")


def test_a_list_beside_class_folders_names_those_that_are_its_numbers(tmp_path):
    for name in ("0", "2", "7", "dog", "03"):
        put(tmp_path / "pool" / name / "1.png", png())
    put(tmp_path / "pool/classes.txt", b"cat\ndog\ncow\nowl\n")
    classes = dict(rows(listed(tmp_path, tmp_path / "pool"), "key", "class_name"))
    assert classes == {"0/1": "cat", "2/1": "cow", "7/1": "7", "dog/1": "dog", "03/1": "owl"}
    put(tmp_path / "pool/classes.txt", b"0\n2\n03\n7\n")  # names of folders, numbered
    listing = listed(tmp_path, tmp_path / "pool")
    assert dict(rows(listing, "key", "class_name"))["2/1"] == "2"


def test_an_edited_list_of_classes_is_a_change_of_the_source(tmp_path):
    put(tmp_path / "a/x.tar", tar_of(SIX))
    marks = []
    for names in (b"", b"cat\ndog\n", b"cat\nowl\n"):
        put(tmp_path / "classes.txt", names)
        marks.append(discover_files([str(tmp_path)]).fingerprint())
    assert len(set(marks)) == 3


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_streams_of_several_parts_are_read_to_the_end(tmp_path, compress):
    data = tar_of(SIX)
    put(tmp_path / "x.tar", b"".join(compress(data[at : at + 999]) for at in range(0, 30_000, 999)))
    listing = listed(tmp_path, tmp_path / "x.tar")
    assert (listing.table.num_rows, listing.problems) == (6, [])


def test_names_with_odd_bytes_and_their_texts_are_different_images(tmp_path):
    names = (b"caf\xe9.png", b"caf\\xe9.png", b"caf\\x5cxe9.png", b"a\nb \x1b~#%.png")
    pixels = {}
    for value, name in enumerate(names):
        path = put(tmp_path / os.fsdecode(name), png(value))
        pixels[path_text(path)] = png(value)
    table = list_images([str(tmp_path)], unpacked=tmp_path / "u").table
    reader = RangeReader()
    rows = zip(*(table.column(n).to_pylist() for n in ("shard", "offset", "size")), strict=True)
    assert {shard: reader.read(shard, at, size) for shard, at, size in rows} == pixels
    assert len(set(table.column("key").to_pylist())) == len(names)
