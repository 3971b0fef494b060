"""Tars of every kind, sound and damaged, made here with `tarfile`."""

import io
import lzma
import tarfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinoforge.shards.index import index_shard
from dinoforge.shards.reading import read_samples
from dinoforge.sources.unpack import plain_tar

SIX = [
    (f"{i:04d}.{extension}", data)
    for i in range(6)
    for extension, data in (("cls", b"%d" % (i % 3)), ("jpg", bytes([i]) * (100 + 300 * i)))
]


def tar_bytes(members, format_=tarfile.USTAR_FORMAT, encoding="utf-8"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_, encoding=encoding) as tar:
        for name, data in members:
            if isinstance(name, tarfile.TarInfo):
                tar.addfile(name)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def indexed(tmp_path, data):
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    return index_shard(path)


def reasons(index):
    return Counter(entry["reason"] for entry in index.problems)


def test_members_are_found_where_tarfile_finds_them(tmp_path):
    data = tar_bytes(SIX)
    index = indexed(tmp_path, data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    members = [(m.name, m.offset, m.size) for s in index.samples for m in s.members.values()]
    assert members == expected
    assert [sample.key for sample in index.samples] == [f"{i:04d}" for i in range(6)]
    assert [image.label for image in index.images] == ["0", "1", "2", "0", "1", "2"]
    assert [image.member.extension for image in index.images] == ["jpg"] * 6
    assert (index.complete, index.problems, index.num_bytes) == (True, [], len(data))


@pytest.mark.parametrize(
    "format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=str
)
@pytest.mark.parametrize("length", [2, 90, 99, 100, 101, 150, 250])
def test_long_names_of_all_dialects_are_whole(tmp_path, format_, length):
    if length > 150 and format_ == tarfile.USTAR_FORMAT:
        pytest.skip("ustar itself has no room for it")
    folder = "x" * (length // 2) + "/" + "y" * (length - length // 2)
    index = indexed(tmp_path, tar_bytes([(f"{folder}/{n}", d) for n, d in SIX[:4]], format_))
    assert [sample.key for sample in index.samples] == [f"{folder}/0000", f"{folder}/0001"]
    assert index.problems == []
    assert dict(read_samples(index))[f"{folder}/0001"]["jpg"] == SIX[3][1]


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=str)
def test_names_that_are_no_utf8_stay_readable_text(tmp_path, format_):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    data = tar_bytes([(f"{name}.jpg", b"1"), *SIX[:2]], format_)
    index = indexed(tmp_path, data)
    assert index.samples[0].key.encode() == rb"caf\xe9"
    assert next(iter(read_samples(index)))[1] == {"jpg": b"1"}
    assert index_key(tmp_path, "日本/é.jpg", format_) == "日本/é"


def index_key(tmp_path, name, format_):
    return indexed(tmp_path, tar_bytes([(name, b"1")], format_)).samples[0].key


def test_numbers_beyond_octal_are_read(tmp_path):
    # 9 GiB in base 256 (GNU) and as a pax record; the file itself is sparse and cut.
    for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        entry = tarfile.TarInfo("a.jpg")
        entry.size = 9 << 30
        (tmp_path / "big.tar").write_bytes(entry.tobuf(format_) + b"data")
        index = index_shard(tmp_path / "big.tar")
        assert reasons(index) == {"truncated": 1}
        with (tmp_path / "big.tar").open("r+b") as file:
            end = file.seek(0, 2) - 4 + (9 << 30)
            file.truncate(end + 1024)
        index = index_shard(tmp_path / "big.tar")
        assert index.complete
        assert index.images[0].member.size == 9 << 30


def test_the_key_ends_at_the_first_dot_of_the_base_name(tmp_path):
    names = ["a.b/0000.jpg", "a.b/0000.cls", "a.b/0001.v2.JPG", "./0002.jpg"]
    index = indexed(tmp_path, tar_bytes([(name, b"1") for name in names]))
    assert [sample.key for sample in index.samples] == ["a.b/0000", "a.b/0001", "0002"]
    assert index.images[1].member.extension == "v2.jpg"  # one image: the key stays WebDataset's


# Members -> key of each image, in their order.
SEVERAL_IMAGES = {
    "dates": (
        ["p.2019.00.jpg", "p.2019.01.jpg", "p.2020.jpg"],
        ["p.2019.00", "p.2019.01", "p.2020"],
    ),
    "one image keeps the key": (["p.2019.00.jpg", "p.2019.00.json"], ["p"]),
    "maps": (["000.jpg", "000.seg.png", "000.depth.png"], ["000", "000.seg", "000.depth"]),
    "maps first": (["a.depth.png", "a.png", "a.jpg"], ["a.depth", "a.png", "a"]),
    "equal stems": (["a.png", "a.jpg", "a.webp"], ["a.png", "a", "a.webp"]),
    "stem of another": (["a.jpg", "a.png", "a.png.jpg"], ["a", "a.png", "a.png.jpg"]),
    "repeated": (["a.jpg", "b.jpg", "a.jpg", "a.jpg"], ["a", "b", "a.2", "a.3"]),
    "repeated, and a name like a number": (["a.2.jpg", "a.jpg", "a.jpg"], ["a.2", "a", "a.3"]),
    "letter case": (["A.JPG", "a.jpg", "A.jpg"], ["A", "a", "A.2"]),
    "folders": (["x/a.1.jpg", "y/a.1.jpg", "x/a.2.jpg"], ["x/a.1", "x/a.2", "y/a"]),
}


@pytest.mark.parametrize("name", SEVERAL_IMAGES)
def test_every_image_of_a_key_is_a_sample_with_a_key_of_its_own(tmp_path, name):
    names, keys = SEVERAL_IMAGES[name]
    index = indexed(tmp_path, tar_bytes([(name, name.encode()) for name in names]))
    assert [image.key for image in index.images] == keys
    of_images = sorted(name for name in names if not name.endswith("json"))
    assert sorted(image.member.name for image in index.images) == of_images
    assert index.complete


def test_a_label_belongs_to_the_image_of_its_name_else_to_all_of_the_key(tmp_path):
    members = [("p.a.jpg", b"1"), ("p.b.jpg", b"2"), ("p.b.cls", b"7"), ("p.cls", b"5")]
    members += [("q.x.jpg", b"3"), ("q.x.cls", b"8"), ("q.x.json", b"{}")]
    index = indexed(tmp_path, tar_bytes(members))
    assert [(i.key, i.label) for i in index.images] == [("p.a", "5"), ("p.b", "7"), ("q", "8")]


def test_content_makes_an_image_where_the_name_does_not(tmp_path):
    jpeg = b"\xff\xd8\xff\xe0"
    members = [("0001", jpeg), ("0001.cls", b"1"), ("a/0002.bin", jpeg), ("a/0003.", jpeg)]
    members += [("0004.cls", jpeg), (".hidden", jpeg), ("README", b"text")]
    index = indexed(tmp_path, tar_bytes(members))
    listed = [(image.key, image.label) for image in index.images]
    assert listed == [("0001", "1"), ("a/0002", None), ("a/0003", None)]
    assert reasons(index) == {"no_key": 2, "no_image": 1, "no_label": 2}


def test_the_photograph_is_the_image_not_the_maps_beside_it(tmp_path):
    names = ["a.depth.png", "a.png", "a.seg.png", "a.jpg", "b.seg.png", "b.png"]
    index = indexed(tmp_path, tar_bytes([(name, b"1") for name in names]))
    assert [sample.image.name for sample in index.samples] == ["a.jpg", "b.png"]


def test_many_images_of_one_name_take_no_quadratic_time(tmp_path):
    one_key = [(f"a.{number}.jpg", b"") for number in range(4000)]
    index = indexed(tmp_path, tar_bytes([*one_key, *[("b.jpg", b"")] * 4000]))
    assert len({image.key for image in index.images}) == len(index.images) == 8000


def test_every_cut_is_reported_and_loses_only_what_was_cut(tmp_path):
    data = tar_bytes(SIX)
    content_end = data.index(b"0005.jpg") + 512 + 2048
    starts = [data.index(f"{i:04d}.cls".encode()) for i in range(6)]
    for cut in range(512, content_end + 1, 256):
        index = indexed(tmp_path, data[:cut])
        assert not index.complete
        assert set(reasons(index)) <= {"truncated", "no_end_marker", "no_image"}
        whole = sum(start < cut for start in starts)
        assert len(index.samples) in (whole, whole - 1)


@pytest.mark.parametrize("cut", ["b.1.jpg", "b.json"])
def test_a_cut_inside_a_member_keeps_the_whole_images_of_its_key(tmp_path, cut):
    members = [(name, b"1" * 600) for name in ("a.jpg", "b.0.jpg", cut)]
    data = tar_bytes(members)
    index = indexed(tmp_path, data[: data.index(cut.encode()) + 700])
    assert [image.member.name for image in index.images] == ["a.jpg", "b.0.jpg"]
    assert [(p["reason"], p["member"]) for p in index.problems] == [("truncated", cut)]


def test_a_cut_inside_a_member_drops_its_sample(tmp_path):
    data = tar_bytes(SIX)
    index = indexed(tmp_path, data[: data.index(b"0003.jpg") + 700])
    assert len(index.samples) == 3
    assert [entry["member"] for entry in index.problems] == ["0003.jpg"]
    assert reasons(index) == {"truncated": 1}


def test_a_cut_between_members_is_not_taken_for_the_end(tmp_path):
    data = tar_bytes(SIX)
    index = indexed(tmp_path, data[: data.index(b"0003.cls")])
    assert (len(index.samples), index.complete) == (3, False)
    assert reasons(index) == {"no_end_marker": 1}


def test_a_wrong_header_checksum_ends_the_shard_aloud(tmp_path):
    data = bytearray(tar_bytes(SIX))
    at = data.index(b"0003.cls")
    data[at + 148 : at + 154] = b"777777"
    index = indexed(tmp_path, bytes(data))
    assert (len(index.samples), index.complete) == (3, False)
    assert index.problems[0]["detail"] == f"at byte {at}"
    assert reasons(index) == {"bad_header": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"this is not a tar\n", "not_a_tar"),
        (b"this is not a tar\n" * 200, "not_a_tar"),
        (b"\x1f\x8b" + b"x" * 2000, "compressed"),
        (b"BZh9" + b"x" * 2000, "compressed"),
        (lzma.compress(b"x" * 9000, format=lzma.FORMAT_ALONE) + bytes(600), "compressed"),
        (b"\x1f\x9d\x90" + b"x" * 2000, "compressed"),
        (bytes(10240), "no_members"),
        (bytes(42 * 512), "long_zeros"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path, data, reason):
    index = indexed(tmp_path, data)
    assert (len(index.samples), index.complete) == (0, False)
    assert reasons(index) == {reason: 1}


def test_a_missing_file_is_a_problem_not_an_error(tmp_path):
    assert reasons(index_shard(tmp_path / "none.tar")) == {"unreadable": 1}
    assert reasons(index_shard(tmp_path)) == {"unreadable": 1}


@pytest.mark.parametrize("num", range(0, 7, 2))
def test_zeros_in_place_of_the_rest_are_reported_where_they_begin(tmp_path, num):
    data = tar_bytes([(name, data * 99) for name, data in SIX])
    at = data.index(SIX[num][0].encode())
    index = indexed(tmp_path, data[:at] + bytes(len(data) - at))
    assert {"long_zeros": f"at byte {at}"}.items() <= {
        entry["reason"]: entry["detail"] for entry in index.problems
    }.items()
    assert (len(index.images), index.complete) == (num // 2, False)
    index = indexed(tmp_path, data[:at] + bytes(41 * 512))  # what tools write
    assert index.complete == (num > 0)


CAPTIONS = [b"P3 phone on a table", b"P5 motorcycle", b"P3 2 4 phones", b"8BPS", b"GIF89a of cats"]


def test_a_caption_is_no_image_and_an_image_in_its_place_is_one(tmp_path):
    members = [
        m for n, text in enumerate(CAPTIONS) for m in ((f"{n}.jpg", b"x"), (f"{n}.txt", text))
    ]
    members += [
        ("p.txt", b"\xff\xd8\xff\xe0"),
        ("q.pixels", b"P5 1 1 255 x"),
        ("r.note", b"P5 motor"),
    ]
    index = indexed(tmp_path, tar_bytes(members))
    assert [image.key for image in index.images] == ["0", "1", "2", "3", "4", "p", "q"]
    assert reasons(index) == {"no_image": 1}


def test_interleaved_members_are_put_together_and_reported(tmp_path):
    members = [SIX[k] for k in (0, 2, 1, 3, 4, 5)]
    index = indexed(tmp_path, tar_bytes(members))
    assert [len(sample.members) for sample in index.samples] == [2, 2, 2]
    assert reasons(index) == {"split_sample": 2}
    assert dict(read_samples(index))["0001"] == {"cls": b"1", "jpg": SIX[3][1]}


def test_repeated_keys_stay_separate_samples(tmp_path):
    again = [(name, b"9" + data) for name, data in SIX[:4]]
    index = indexed(tmp_path, tar_bytes(SIX[:4] + again))
    assert [sample.key for sample in index.samples] == ["0000", "0001"] * 2
    assert [image.key for image in index.images] == ["0000", "0001", "0000.2", "0001.2"]
    assert [len(sample.members) for sample in index.samples] == [2] * 4
    assert reasons(index) == {"duplicate_key": 2}
    assert [data["cls"] for _, data in read_samples(index)] == [b"0", b"1", b"90", b"91"]


def test_links_and_devices_are_skipped_and_folders_are_normal(tmp_path):
    members = []
    for name, kind in (
        ("0000.jpg", tarfile.SYMTYPE),
        ("0001.jpg", tarfile.LNKTYPE),
        ("0002.jpg", tarfile.FIFOTYPE),
        ("sub", tarfile.DIRTYPE),
    ):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/hostname" if kind == tarfile.SYMTYPE else "x"
        members.append((entry, None))
    index = indexed(tmp_path, tar_bytes([*members, ("sub/0003.jpg", b"1")]))
    assert [sample.key for sample in index.samples] == ["sub/0003"]
    assert reasons(index) == {"not_a_file": 3}


def test_names_that_leave_the_folder_give_keys_inside_it(tmp_path):
    names = ["../../evil.jpg", "/abs/evil.jpg", "a/../b.jpg"]
    index = indexed(tmp_path, tar_bytes([(name, b"1") for name in names]))
    assert [sample.key for sample in index.samples] == ["evil", "abs/evil", "a/b"]
    assert reasons(index) == {"unsafe_name": 3}


def test_missing_parts_of_samples_are_counted(tmp_path):
    index = indexed(tmp_path, tar_bytes([m for m in SIX if m[0] not in ("0002.cls", "0004.jpg")]))
    assert len(index.samples) == 6
    assert reasons(index) == {"no_image": 1, "no_label": 1}
    assert index.images[2].label is None
    assert index.complete
    only_images = indexed(tmp_path, tar_bytes([m for m in SIX if m[0].endswith("jpg")]))
    assert only_images.problems == []


def test_names_without_key_or_extension_are_skipped(tmp_path):
    index = indexed(tmp_path, tar_bytes([(n, b"1") for n in ("README", ".hidden.jpg", "a.jpg")]))
    assert [sample.key for sample in index.samples] == ["a"]
    assert reasons(index) == {"no_key": 2}


def test_a_file_whose_name_ends_like_that_of_a_folder_is_named(tmp_path):
    index = indexed(tmp_path, tar_bytes([("folder/", b""), ("a.jpg/", b"x"), ("b.jpg", b"y")]))
    assert [image.key for image in index.images] == ["b"]
    assert [(p["member"], p["reason"]) for p in index.problems] == [("a.jpg/", "no_key")]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_raises_and_kept_members_lie_inside_the_file(tmp_path, data):
    content = bytearray(tar_bytes(SIX, tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    index = indexed(tmp_path, bytes(content))
    for sample in index.samples:
        for member in sample.members.values():
            assert 0 <= member.offset <= member.offset + member.size <= len(content)
    if len(content) < data_end(bytes(content)):
        assert not index.complete


def data_end(content):
    return 512 if len(content) < 512 else 0


@pytest.mark.parametrize("name", ["BZh.jpg", "LZIP.jpg"])
def test_a_name_that_begins_as_a_compressed_file_does_is_a_name(tmp_path, name):
    index = indexed(tmp_path, tar_bytes([(name, b"x")]))
    assert (len(index.images), index.problems) == (1, [])
    assert plain_tar(tmp_path / "a.tar", tmp_path / "unpacked") == tmp_path / "a.tar"
