"""Side data: read where img2dataset and WebDataset put them, compared, and passed on."""

import io
import json
import tarfile

import numpy as np
import pool as pools
import pyarrow as pa
import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.curated import ledger_path
from dinoforge.errors import UsageError
from dinoforge.shards.reading import read_samples
from dinoforge.tables import read_table, write_table

# key -> what img2dataset wrote into its JSON; None: no JSON
ROWS = {
    "000000000": {"uid": "a", "url": "https://x.org/a.jpg", "punsafe": 0.01, "width": 999},
    "000000001": {"uid": "b", "url": "https://x.org/b.jpg", "punsafe": 0.9, "exif": {"Make": "A"}},
    "000000002": {"uid": "c", "url": "https://shop.org/c.jpg", "punsafe": 1, "clip": None},
    "000000003": None,
}


def picture(number):
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_tar(path, rows, *, png_last=False):
    """Write a shard as img2dataset does, with the failed samples in its table alone."""
    with tarfile.open(path, "w") as tar:
        for number, (key, row) in enumerate(rows.items()):
            members = {"png": picture(int(key)), "txt": f"picture {number}\n".encode()}
            if row is not None:
                members["json"] = json.dumps(row).encode()
            for extension in sorted(members, reverse=png_last):
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(members[extension])
                tar.addfile(entry, io.BytesIO(members[extension]))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two shards, one with a table beside it, and a folder of files."""
    folder = tmp_path_factory.mktemp("side")
    write_tar(folder / "00000.tar", ROWS)
    write_tar(folder / "00001.tar", {"000010000": None, "000010002": None}, png_last=True)
    table = pa.table(
        {
            "key": ["000010000", "000010001", "000010002"],
            "punsafe": [0.02, 0.5, None],
            "url": ["https://x.org/d.jpg", "https://x.org/failed.jpg", "https://x.org/e.jpg"],
            "status": ["success", "failed_to_download", "success"],
        }
    )
    write_table(folder / "00001.parquet", table, table.schema)
    (folder / "files").mkdir()
    for number, text in ((1, '{"punsafe": 0.03, "note": "ok"}'), (2, "[1, 2"), (3, None)):
        (folder / f"files/f{number}.png").write_bytes(picture(100 + number))
        if text:
            (folder / f"files/f{number}.json").write_text(text)
    (folder / "files/f3.txt").write_text("grün")
    paths = [str(folder / name) for name in ("00000.tar", "00001.tar", "files")]
    return [{"role": "pool", "paths": paths}]


def recipe(sources, out, *more):
    few = ("retrieve.mode=none", "plant.count=0", "partition_images=3")
    return pools.recipe(sources, out, *few, *more)


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory):
    run = tmp_path_factory.mktemp("side") / "run"
    where = "filter.where=punsafe < 0.1 and not side.url.startswith('https://shop')"
    pools.curated(recipe(sources, run, "side.columns=['*']", where))
    return run


def test_every_layout_is_read(run):
    table = read_table(ledger_path(run))
    rows = {row["key"]: row for row in table.to_pylist()}
    assert {key: row["side.punsafe"] for key, row in rows.items()} == {
        **{"000000000": 0.01, "000000001": 0.9, "000000002": 1.0, "000000003": None},
        **{"000010000": 0.02, "000010002": None, "f1": 0.03, "f2": None, "f3": None},
    }
    assert rows["000010002"]["side.url"] == "https://x.org/e.jpg"
    assert rows["000000003"]["side.caption"] == "picture 3"
    assert rows["f3"]["side.caption"] == "grün"
    assert rows["000000001"]["side.exif"] == '{"Make": "A"}'
    assert (rows["000000000"]["side.width"], rows["000000000"]["width"]) == (999, 40)
    assert table.schema.field("side.punsafe").type == pa.float64()  # 1 is an integer in JSON


def test_conditions_compare_side_data_and_samples_have_them(run):
    rows = {row["key"]: row for row in pools.ledger(run)}
    kept = {key for key, row in rows.items() if row["decision"] == "kept"}
    assert kept == {"000000000", "000010000"}
    assert rows["000000001"]["reason"] == "filtered_out"
    assert rows["000000001"]["detail"] == "punsafe 0.9, side.url https://x.org/b.jpg"
    assert rows["f1"]["reason"] == "missing_value"  # has no url
    samples = [m for tar in sorted((run / "shards").glob("*.tar")) for _, m in read_samples(tar)]
    side = {note["key"]: note["side"] for note in (json.loads(m["json"]) for m in samples)}
    assert side["000000000"] == ROWS["000000000"] | {"caption": "picture 0"}
    assert side["000010000"]["status"] == "success"


def test_files_that_are_no_json_objects_are_counted(run):
    markers = sorted((run / "curation/22-side").glob("*.done"))
    facts = [json.loads(path.read_text())["facts"] for path in markers]
    assert sum(one["damaged"] for one in facts) == 1
    assert sum(one["with_data"] for one in facts) == 8


def test_only_named_columns_are_kept(sources, run, tmp_path):
    pools.curated(recipe(sources, tmp_path, "side.columns=[url,pun*]"))
    names = read_table(ledger_path(tmp_path)).column_names
    assert [name for name in names if name.startswith("side.")] == ["side.punsafe", "side.url"]


def test_planted_copies_have_the_side_data_of_their_originals(sources, tmp_path):
    config = recipe(sources, tmp_path, "side.columns=[url]", "plant.count=3")
    pools.curated(config)
    rows = pools.ledger(tmp_path)
    copies = [row for row in rows if row["planted_from"] is not None]
    assert len(copies) == 3
    assert all(row["side.url"] == rows[row["planted_from"]]["side.url"] for row in copies)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, "many"), "the column `n` of the side data holds numbers and text"),
        ((1, 2, 3, "many"), "the column `n` of the side data is int64 for some images, string"),
    ],
)
def test_a_column_of_two_kinds_is_refused_by_name(tmp_path, values, message):
    write_tar(tmp_path / "a.tar", {f"{n:09d}": {"n": value} for n, value in enumerate(values)})
    sources = [{"role": "pool", "paths": [str(tmp_path / "a.tar")]}]
    with pytest.raises(UsageError, match=message):
        pools.curated(recipe(sources, tmp_path / "run", "side.columns=['*']"))
    pools.curated(recipe(sources, tmp_path / "other", "side.columns=[caption]"))


@pytest.mark.parametrize(
    ("columns", "where", "message"),
    [
        ("[url]", "punsafe < 0.1", "no column `punsafe`"),
        ("[punsafe]", "punsave < 0.1", "no column `punsave` (did you mean `punsafe`?)"),
        ("['*']", "punsave < 0.1", "no column `punsave` (did you mean `punsafe`?)"),
        ("['*']", "side.url < 0.1", "`side.url < 0.1` compares a number with a text"),
    ],
)
def test_a_column_that_is_not_there_is_refused(sources, tmp_path, capsys, columns, where, message):
    arguments = [f"sources={json.dumps(sources)}", f"out={tmp_path}", f"filter.where={where}"]
    assert main(["curate", *arguments, f"side.columns={columns}", "retrieve.mode=none"]) == 2
    assert message in capsys.readouterr().err
