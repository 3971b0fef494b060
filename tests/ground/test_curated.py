"""What a curation leaves: readers find the files that the stages write, and the right pictures."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from dinoforge.curated import (
    KEPT_REASONS,
    LEDGER_SCHEMA,
    REASONS,
    content_path,
    ledger_path,
    pairs_files,
    resolve_shard,
    shards_path,
    slots_path,
)
from dinoforge.evaluation.report.ledger import read_ledger
from dinoforge.shards.index import index_shard
from dinoforge.tables import read_table, write_table


def png(gray):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), gray, np.uint8)).save(file, "PNG")
    return file.getvalue()


def ledger_of(run, *shards):
    """Ledger with one image per shard; all other columns are empty."""
    rows = [
        {"image_id": n, "shard": shard, "offset": 0, "size": len(png(n)), "role": "pool"}
        for n, shard in enumerate(shards)
    ]
    table = pa.Table.from_pylist(rows, LEDGER_SCHEMA)
    write_table(ledger_path(run), table, LEDGER_SCHEMA)
    return read_ledger(run)


def test_a_finished_run_publishes_what_readers_look_for(calm):
    published = {path.relative_to(calm / "published") for path in (calm / "published").rglob("*.*")}
    paths = [content_path(calm), ledger_path(calm), shards_path(calm), slots_path(calm)]
    readable = {path.relative_to(calm / "published") for path in (*paths, *pairs_files(calm))}
    assert published == {*readable, Path("summary.json")}
    pairs = [read_table(path) for path in pairs_files(calm)]
    assert len(pairs) > 1
    ledger, content = read_table(ledger_path(calm)), np.load(content_path(calm))
    assert len(content) == ledger.num_rows
    assert all((np.isin(table.column("i"), content)).all() for table in pairs)


def test_the_list_of_shards_counts_their_images(calm):
    listed = json.loads(shards_path(calm).read_text())
    assert [entry["shard"] for entry in listed] == sorted(
        str(tar.relative_to(calm)) for tar in (calm / "shards").glob("*.tar")
    )
    for entry in listed:
        assert len(index_shard(calm / entry["shard"]).samples) == entry["images"] > 0


def test_the_kept_reasons_and_takedowns_end_the_reasons():
    last = (
        *KEPT_REASONS,
        "taken_down",
        "not_balanced",
        "excluded",
        "filtered_out",
        "missing_value",
    )
    assert REASONS[-len(last) :] == last
    assert len(set(REASONS)) == len(REASONS)


def test_only_what_the_run_made_lies_in_its_folder(tmp_path):
    assert resolve_shard(tmp_path, "curation/15-plant/planted-000000.tar").startswith(str(tmp_path))
    for shard in ("shards/pool-000000.tar", "/data/a.tar", "curations/a.tar"):
        assert resolve_shard(tmp_path, shard) == shard


def test_the_report_shows_the_picture_of_the_source_not_of_the_runs_own_shard(
    tmp_path, monkeypatch
):
    run = tmp_path / "run"
    for folder, gray in ((tmp_path, 10), (run, 200)):
        (folder / "shards").mkdir(parents=True)
        (folder / "shards/pool-000000.tar").write_bytes(png(gray))
    (run / "curation").mkdir()
    (run / "curation/planted.tar").write_bytes(png(90))
    monkeypatch.chdir(tmp_path)
    ledger = ledger_of(run, "shards/pool-000000.tar", "curation/planted.tar", "gone.tar")
    assert [ledger.image(n).max() for n in (0, 1)] == [10, 90]
    assert ledger.image(2) is None


def test_the_report_finds_a_file_whose_name_is_no_utf_8(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(png(60))
    ledger = ledger_of(tmp_path / "run", f"{tmp_path}/caf\\xe9.png")
    assert ledger.image(0).max() == 60


def test_columns_with_nothing_to_state_are_empty_in_the_report(tmp_path):
    ledger = ledger_of(tmp_path, "a.tar")
    row = ledger.row(0)
    assert (row.key, row.duplicate_of, row.planted_from) == ("", -1, -1)
    assert np.isnan(row.similarity)
