"""Reading by offset: threads, forks, pickles, files that vanish."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dinoforge.shards.index import index_shard
from dinoforge.shards.reading import RangeReader, read_members, read_samples
from dinoforge.shards.writer import ShardWriter


def content(i):
    return {"jpg": bytes([i]) * (500 + i), "cls": b"%d" % i}


@pytest.fixture
def shards(tmp_path):
    with ShardWriter(tmp_path, "pool", max_samples=5) as writer:
        for i in range(20):
            writer.write(f"{i:04d}", content(i))
    return [index_shard(shard.path) for shard in writer.shards]


def test_sequential_reading_gives_every_sample(shards):
    samples = [pair for index in shards for pair in read_samples(index)]
    assert samples == [(f"{i:04d}", content(i)) for i in range(20)]


def test_random_reading_with_few_open_files_from_many_threads(shards):
    reader = RangeReader(max_open=2)

    def read(i):
        index = shards[i // 5]
        return read_members(reader, index.path, index.samples[i % 5])

    order = [i * 7 % 20 for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, order)) == [content(i) for i in order]
    assert len(reader._files) <= 2


def read_in_child(reader, path, member, queue):
    queue.put(reader.read(path, member.offset, member.size))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_reader_with_open_files_works_in_child_processes(shards, method):
    reader = RangeReader()
    member = shards[1].images[2].member
    assert reader.read(shards[1].path, member.offset, member.size) == content(7)["jpg"]
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=read_in_child, args=(reader, shards[1].path, member, queue))
    child.start()
    assert queue.get() == content(7)["jpg"]
    child.join()


def test_a_pickled_reader_holds_no_files(shards):
    reader = RangeReader(max_open=3)
    reader.read(shards[0].path, 0, 10)
    copy = pickle.loads(pickle.dumps(reader))
    assert len(copy._files) == 0
    assert copy.read(shards[0].path, 0, 10) == reader.read(shards[0].path, 0, 10)


def test_files_that_vanish_or_shrink_are_errors_of_the_system(tmp_path, shards):
    reader = RangeReader()
    with pytest.raises(OSError, match="ends before byte"):
        reader.read(shards[0].path, 0, 1 << 20)
    with pytest.raises(FileNotFoundError):
        reader.read(str(tmp_path / "none"), 0, 1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        reader.read(str(tmp_path / "pipe"), 0, 1)
    assert reader.read(shards[0].path, 5, 0) == b""


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_descriptors_are_closed(shards):
    before = open_files()
    reader = RangeReader(max_open=1)
    for index in shards:
        reader.read(index.path, 0, 1)
    assert open_files() == before + 1
    del reader
    assert open_files() == before


def test_file_names_that_are_no_utf8_are_found_by_their_readable_form(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.bin")).write_bytes(b"data")
    assert RangeReader().read(f"{tmp_path}/caf\\xe9.bin", 1, 3) == b"ata"
