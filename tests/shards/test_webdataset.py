"""The `webdataset` package reads what we write, and we read what it writes."""

import gc

import pytest

from dinoforge.shards.index import index_shard
from dinoforge.shards.reading import read_samples
from dinoforge.shards.writer import ShardWriter

wds = pytest.importorskip("webdataset")

SAMPLES = {
    "000000000": {"jpg": b"\xff\xd8\xff picture", "cls": b"3"},
    "sub/000000001": {"jpg": b"other", "seg.png": b"map", "cls": b"0"},
    "é/" + "long" * 40: {"jpg": b"x" * 5000, "cls": b"1"},
}


# webdataset 1.0 leaves the last shard open for the garbage collector to close.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_our_shards(tmp_path):
    with ShardWriter(tmp_path, "pool", max_samples=2) as writer:
        for key, members in SAMPLES.items():
            writer.write(key, members)
    urls = str(tmp_path / "pool-{000000..000001}.tar")
    pipeline = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
    samples = {
        sample["__key__"]: {k: v for k, v in sample.items() if not k.startswith("__")}
        for sample in pipeline
    }
    del pipeline
    gc.collect()
    assert samples == SAMPLES


def test_we_read_the_shards_of_webdataset(tmp_path):
    with wds.TarWriter(str(tmp_path / "w.tar"), encoder=False) as writer:
        for key, members in SAMPLES.items():
            writer.write({"__key__": key, **members})
    index = index_shard(tmp_path / "w.tar")
    assert (index.complete, index.problems) == (True, [])
    assert dict(read_samples(index)) == SAMPLES
