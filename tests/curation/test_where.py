"""`filter.where` in a run: what it drops, how the ledger and explain say so, and what reruns."""

import json
import re

import numpy as np
import pool as pools
import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.curation.explain import explain

WHERE = "quality > 60 and not key.contains('logo') or key == 'tiny'"
REASON = {
    "fine": "kept",
    "coarse": "filtered_out",
    "a_logo": "filtered_out",
    "drawn": "missing_value",  # a GIF has no quality
    "tiny": "too_small",  # limits come first
    "broken": "undecodable",
    "exempt": "as_is",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Pictures of noise in files of several kinds, one of them in a source to keep as it is."""
    folder = tmp_path_factory.mktemp("where")
    rng = np.random.default_rng(0)
    for name in ("pool", "as_is"):
        (folder / name).mkdir()
    names = {
        "fine.jpg": {"quality": 90},
        "coarse.jpg": {"quality": 30},
        "a_logo.png": {},
        "drawn.gif": {},
    }
    for name, options in names.items():
        pixels = rng.integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pool" / name, **options)
    Image.fromarray(pixels[:8]).save(folder / "pool/tiny.png")
    Image.fromarray(255 - pixels).save(folder / "as_is/exempt.gif")
    (folder / "pool/broken.png").write_bytes(b"")
    return [{"role": role, "paths": [str(folder / role)]} for role in ("pool", "as_is")]


def recipe(sources, out, *more):
    return pools.recipe(sources, out, "retrieve.mode=none", "plant.count=0", *more)


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory):
    run = tmp_path_factory.mktemp("where") / "run"
    pools.curated(recipe(sources, run, f"filter.where={WHERE}"))
    return run


def test_images_that_do_not_meet_the_condition_are_dropped_with_what_it_read(run):
    rows = {row["key"]: row for row in pools.ledger(run)}
    assert {key: row["reason"] for key, row in rows.items()} == REASON
    assert re.fullmatch(r"quality 3\d(\.\d+)?, key coarse", rows["coarse"]["detail"])
    assert rows["a_logo"]["detail"] == "quality inf, key a_logo"
    assert rows["drawn"]["detail"] == "quality (none), key drawn"
    summary = json.loads((run / "published/summary.json").read_text())
    assert summary["roles"]["pool"]["filtered_out"] == 2
    assert {"label": "dropped: missing value", "count": 1} in summary["funnel"]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("coarse", r"does not meet the condition quality > 60 and .* \(filter.where\): quality 3"),
        ("drawn", r"a value is missing that the condition quality > 60 .*: quality \(none\), key"),
    ],
)
def test_explain_names_the_condition_and_the_values(run, key, sentence):
    first = explain(run, key).sentences[0]
    assert re.search(sentence, first), first


def test_another_condition_measures_nothing_again(sources, run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (run / "curation").glob("*/*.done")}
    config = recipe(sources, run, "filter.where=bytes < 1e9")
    pools.curated(config, on_change="update")
    changed = {path.parent.name for path, t in before.items() if path.stat().st_mtime_ns != t}
    assert "25-filter" in changed
    assert not changed & {"10-ingest", "20-inspect", "30-embed"}
    assert [row["key"] for row in pools.ledger(run) if row["decision"] == "dropped"] == [
        "broken",
        "tiny",
    ]
    pools.curated(recipe(sources, run, f"filter.where={WHERE}"), on_change="update")
    pools.curated(recipe(sources, tmp_path / "apart", f"filter.where={WHERE}"))
    assert not pools.differences(run, tmp_path / "apart")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("widths > 64", "no column `widths` (did you mean `width`?) - `filter.where`"),
        ("width > '64'", "`width > '64'` compares a number with a text - `filter.where`"),
        ("width >", "`filter.where` is no condition: syntax error"),
    ],
)
def test_a_bad_condition_stops_before_anything_is_read(sources, tmp_path, capsys, where, message):
    out = tmp_path / "run"
    arguments = [f"sources={json.dumps(sources)}", f"out={out}", f"filter.where={where}"]
    assert main(["curate", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(out.glob("curation/*/*.done"))


def test_a_block_list_that_changes_is_applied_again(sources, tmp_path):
    run, blocked = tmp_path / "run", tmp_path / "blocked.txt"
    blocked.write_text("")
    config = recipe(sources, run, f"filter.where=sha256 not in lines('{blocked}')")
    pools.curated(config)
    rows = pools.ledger(run)
    assert not [row for row in rows if row["reason"] == "filtered_out"]
    blocked.write_text("".join(f"{row['sha256']}\n" for row in rows if row["key"] == "fine"))
    pools.curated(config)
    dropped = [row for row in pools.ledger(run) if row["reason"] == "filtered_out"]
    assert [row["key"] for row in dropped] == ["fine"]
    assert dropped[0]["detail"] == f"sha256 {dropped[0]['sha256']}"
