"""Shards that we write: layout, limits, repeatable bytes, checksum files, crashes."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoforge.errors import UsageError
from dinoforge.shards.index import index_shard, verify_shard
from dinoforge.shards.reading import read_samples
from dinoforge.shards.sidecar import read_sidecar
from dinoforge.shards.writer import ShardWriter, _header, cut_shards, sample_bytes


def samples(count, size=100):
    return [
        (f"{i:09d}", {"jpg": bytes([i % 256]) * size, "json": b"{}", "cls": b"%d" % i})
        for i in range(count)
    ]


def write(folder, content, **limits):
    with ShardWriter(folder, "pool", **limits) as writer:
        for key, members in content:
            writer.write(key, members)
    return writer.shards


def test_equal_samples_give_equal_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, samples(7), max_samples=3)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    tars = [f"pool-{i:06d}" for i in range(3)]
    assert files == sorted([f"{t}.tar" for t in tars] + [f"{t}.json" for t in tars])
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tarfile_reads_members_in_order_with_constant_metadata(tmp_path):
    write(tmp_path, samples(2))
    with tarfile.open(tmp_path / "pool-000000.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[:3]] == [f"000000000.{e}" for e in ("jpg", "json", "cls")]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
        assert tar.extractfile("000000001.cls").read() == b"1"


def test_the_bytes_are_those_of_tarfile(tmp_path):
    write(tmp_path, samples(3))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples(3):
            for extension, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    assert (tmp_path / "pool-000000.tar").read_bytes() == file.getvalue()


@pytest.mark.parametrize("size", [0, 511, 8**11])
@pytest.mark.parametrize(
    "name", ["a", "folder/b-1", "k" * 96, "k" * 97, "d/" * 60 + "long", "\u00e4"]
)
def test_headers_are_those_of_tarfile(name, size):
    entry = tarfile.TarInfo(f"{name}.jpg")
    entry.size, entry.mode = size, 0o644
    assert _header(name, "jpg", size) == entry.tobuf(tarfile.PAX_FORMAT, "utf-8")


def test_limits_on_samples_and_bytes_start_new_shards(tmp_path):
    by_samples = write(tmp_path / "n", samples(7), max_samples=3)
    assert [shard.facts.samples for shard in by_samples] == [3, 3, 1]
    by_bytes = write(tmp_path / "b", samples(12, size=2000), max_bytes=20_480)
    assert all(shard.facts.num_bytes <= 20_480 for shard in by_bytes)
    assert sum(shard.facts.samples for shard in by_bytes) == 12
    assert by_bytes[0].facts.samples > 1
    alone = write(tmp_path / "l", samples(2, size=50_000), max_bytes=20_480)
    assert [shard.facts.samples for shard in alone] == [1, 1]


def test_the_checksum_file_states_what_is_inside(tmp_path):
    (shard,) = write(tmp_path, samples(4))
    data = shard.path.read_bytes()
    facts = read_sidecar(shard.path)
    assert facts == shard.facts
    assert (facts.samples, facts.members, facts.num_bytes) == (4, 12, len(data))
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    assert verify_shard(shard.path) == []


def test_a_shard_that_is_not_as_its_checksum_file_states_is_reported(tmp_path):
    (shard,) = write(tmp_path, samples(4))
    data = shard.path.read_bytes()
    # A clean end after two samples: sound in itself, and silent in other readers.
    cut = data.index(b"000000002.jpg")
    shard.path.write_bytes(data[:cut] + bytes(1024))
    index = index_shard(shard.path)
    assert not index.complete
    assert [(p["reason"], p["detail"]) for p in index.problems] == [
        ("count_mismatch", "2 of 4 samples"),
        ("size_mismatch", f"{cut + 1024} of {len(data)} bytes"),
    ]
    flipped = bytearray(data)
    flipped[600] ^= 1
    shard.path.write_bytes(flipped)
    assert index_shard(shard.path).complete  # headers are sound: only the content reports
    assert [entry["reason"] for entry in verify_shard(shard.path)] == ["checksum_mismatch"]


def test_foreign_json_beside_a_shard_is_left_alone(tmp_path):
    (shard,) = write(tmp_path, samples(1))
    for text in ('{"samples": 9}', "[]", "no json", '{"format": "dinoforge.shard/1"}'):
        shard.path.with_suffix(".json").write_text(text)
        assert index_shard(shard.path).problems == []
        assert read_sidecar(shard.path) is None


def test_an_interrupted_writer_leaves_whole_shards_only(tmp_path):
    def interrupted():
        with ShardWriter(tmp_path, "pool", max_samples=3) as writer:
            for key, members in samples(5):
                writer.write(key, members)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pool-000000.json",
        "pool-000000.tar",
    ]
    assert index_shard(tmp_path / "pool-000000.tar").complete


def test_no_samples_give_no_shard(tmp_path):
    assert write(tmp_path / "none", []) == []
    assert not (tmp_path / "none").exists()


def test_numbering_may_start_anywhere(tmp_path):
    shards = write(tmp_path, samples(2), max_samples=1, first=41)
    assert [shard.path.name for shard in shards] == ["pool-000041.tar", "pool-000042.tar"]


@pytest.mark.parametrize("key", ["a.b", "", "../x", "/x", "a//b", "./a"])
def test_keys_that_readers_would_change_are_refused(tmp_path, key):
    with ShardWriter(tmp_path, "pool") as writer, pytest.raises(ValueError, match="give back"):
        writer.write(key, {"jpg": b""})


def test_a_repeated_key_is_refused(tmp_path):
    with ShardWriter(tmp_path, "pool") as writer:
        writer.write("a", {"jpg": b"1"})
        with pytest.raises(ValueError, match="already"):
            writer.write("a", {"jpg": b"1"})


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    writer = ShardWriter(tmp_path / "file", "pool")
    with pytest.raises(UsageError, match="cannot write"):
        writer.write("a", {"jpg": b"1"})


keys = st.text(st.characters(exclude_characters="./\0", exclude_categories=["Cs"]), min_size=1)
extensions = st.sampled_from(["jpg", "png", "cls", "json", "seg.png"])


@settings(max_examples=40)
@given(
    st.dictionaries(
        keys, st.dictionaries(extensions, st.binary(max_size=1500), min_size=1), min_size=1
    ),
    st.integers(1, 4),
)
def test_what_is_written_is_read(tmp_path_factory, content, max_samples):
    folder = tmp_path_factory.mktemp("shards")
    shards = write(folder, content.items(), max_samples=max_samples)
    assert all(index_shard(shard.path).complete for shard in shards)
    assert dict(pair for shard in shards for pair in read_samples(shard.path)) == content


@pytest.mark.parametrize(
    ("num_bytes", "max_samples", "starts"),
    [
        ([100] * 5, 2, [0, 2, 4]),
        ([100] * 4, 2, [0, 2]),
        ([600_000] * 4, 9, [0, 1, 2, 3]),  # two are more than the limit
        ([400_000] * 4, 9, [0, 2]),
        ([100, 5_000_000, 100], 9, [0, 1, 2]),  # one sample larger than a shard
        ([], 9, []),
    ],
)
def test_a_shard_ends_before_it_has_too_many_samples_or_bytes(num_bytes, max_samples, starts):
    assert cut_shards(np.array(num_bytes, np.int64), max_samples, 1_000_000).tolist() == starts


@pytest.mark.parametrize("key", ["a", "folder/" + "x" * 120, "\u00e9"])
def test_the_bytes_of_a_sample_are_known_before_it_is_written(tmp_path, key):
    members = {"jpg": b"x" * 700, "json": b"{}", "txt": b""}
    (shard,) = write(tmp_path, [(key, members)])
    num_bytes = sample_bytes(key, [(name, len(data)) for name, data in members.items()])
    content = shard.path.read_bytes()
    assert content[num_bytes - 512 : num_bytes].strip(b"\0"), "the header of the last member"
    assert not content[num_bytes:].strip(b"\0")
