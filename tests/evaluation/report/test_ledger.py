"""Reading a ledger: every row as it was written, pictures from where their bytes are."""

import math

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dinoforge.curated import LEDGER_SCHEMA, ledger_path
from dinoforge.evaluation.report.ledger import read_ledger
from dinoforge.images import decode
from dinoforge.tables import read_table, write_table


@pytest.fixture(scope="module")
def ledger(project):
    return read_ledger(project["curation"])


def rewritten(folder, rows):
    """Write a ledger of these rows into a new run folder."""
    columns = {
        name: pa.array([row.get(name) for row in rows], LEDGER_SCHEMA.field(name).type)
        for name in LEDGER_SCHEMA.names
    }
    write_table(ledger_path(folder), pa.table(columns), LEDGER_SCHEMA)
    return read_ledger(folder)


def wide_gray(folder):
    """Write a 16-bit picture that uses 12 bits, and the decode section that shows them."""
    pixels = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(pixels).save(folder / "wide.png")
    (folder / "config.yaml").write_text("decode: {range: [0, 4095]}\n")
    return folder / "wide.png"


def test_pictures_are_decoded_as_the_run_decoded_them(tmp_path):
    path = wide_gray(tmp_path)
    row = {"image_id": 0, "shard": str(path), "offset": 0, "size": path.stat().st_size}
    image = rewritten(tmp_path, [row]).image(0)
    assert (image.min(), image.max()) == (0, 255)


def test_a_run_that_has_not_got_so_far_has_no_ledger(tmp_path):
    assert read_ledger(tmp_path) is None


def test_every_row_states_what_was_written(ledger, project):
    written = read_table(ledger_path(project["curation"])).to_pylist()
    assert len(ledger) == len(written)
    for row in written:
        read = ledger.row(row["image_id"])
        for name in read.__dataclass_fields__:
            value = getattr(read, name)
            if row[name] is None:
                assert value in ("", -1) or math.isnan(value), name
            else:
                assert value == row[name], name


def test_the_picture_of_a_source_and_of_a_planted_copy_are_those_that_were_curated(
    ledger, photographs
):
    assert np.array_equal(ledger.image(9), decode(photographs[9]))
    planted = ledger["image_id"][ledger["planted_from"] >= 0].tolist()
    assert len(planted) == 15
    for image_id in planted:
        copy, original = ledger.image(image_id), ledger.image(ledger.row(image_id).planted_from)
        assert copy is not None
        # Of the same picture, not the same bytes.
        assert abs(float(copy.mean()) - float(original.mean())) < 40


def test_what_does_not_decode_has_no_picture(ledger):
    (first, *_) = ledger["image_id"][ledger["reason"] == "undecodable"].tolist()
    assert ledger.image(first) is None
    assert ledger.picture(first) is None


def test_an_image_whose_file_is_gone_has_a_row_and_no_picture(tmp_path, project):
    rows = read_table(ledger_path(project["curation"])).slice(0, 2).to_pylist()
    gone = rewritten(tmp_path, [row | {"shard": str(tmp_path / "gone.tar")} for row in rows])
    assert gone.row(1).key == rows[1]["key"]
    assert gone.picture(1) is None


def test_a_thumbnail_is_made_once_a_size(ledger):
    small, large = ledger.picture(4, side=24), ledger.picture(4, side=48)
    assert (small.width, large.width) == (24, 48)
    assert ledger.picture(4, side=24) is small
