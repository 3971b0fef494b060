"""Any stage may take away any part of the pool, even all of it: the ledger accounts for it."""

import io
import json
from functools import cache

import numpy as np
import pool as pools
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from dinoforge.config import load_config
from dinoforge.curated import REASONS
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.explain import explain
from dinoforge.curation.remarks import DECIDING_KEYS
from dinoforge.errors import UsageError
from dinoforge.evaluation.report.build import make_report
from dinoforge.sources.image_set import open_images

SIZES = {"too_small": (8, 8), "bad_aspect": (20, 400)}


@cache
def drawn(number, fate="kept"):
    """Bytes of a file that a curation drops for the reason ``fate``, or has no reason to drop."""
    if fate == "undecodable":
        return b"no image" * (number + 1)
    colors = np.random.default_rng(number).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    picture = Image.fromarray(colors).resize(SIZES.get(fate, (48, 48)), Image.Resampling.BICUBIC)
    if fate == "flat":
        picture = Image.new("RGB", (48, 48), (number, number, number))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class Folders:
    """Source folders by role, filled with drawn files."""

    def __init__(self, root):
        self.root = root

    def add(self, role, name, data):
        (self.root / role).mkdir(parents=True, exist_ok=True)
        (self.root / role / f"{name}.png").write_bytes(data)

    def fill(self, fates):
        """Write ``fates``: role -> fate of each of its images; numbers are global."""
        number = 0
        for role, of_role in fates.items():
            for fate in of_role:
                number += 1
                if fate in {"leak", "exact_duplicate"}:
                    other = "reference" if fate == "leak" else "as_is"
                    self.add(other, f"original{number}", drawn(number))
                data = drawn(number) if fate in {"leak", "exact_duplicate"} else drawn(number, fate)
                self.add(role, f"{fate}.{number}".replace(".", "-"), data)
        return self

    def curated(self, *more):
        sources = [
            {"role": role, "paths": [str(self.root / role)]}
            for role in ("as_is", "reference", "seed", "pool")
            if (self.root / role).is_dir()
        ]
        words = [f"sources={json.dumps(sources)}", f"out={self.root / 'run'}", *more]
        summary = pools.curated(load_config(CurationConfig, None, words), on_change="update")
        return summary, pools.ledger(self.root / "run")


def check(summary, rows, run):
    """The ledger, the summary and the shards are one account."""
    kept = [row for row in rows if row["decision"] == "kept"]
    assert summary.images == len(rows) == sum(n for c in summary.roles.values() for n in c.values())
    assert summary.kept == len(kept)
    assert len(pools.samples(run)) == summary.exported == sum(row["copies"] for row in kept)
    assert (
        (summary.shards == 0)
        == (not kept)
        == any("no image was kept" in r for r in summary.remarks)
    )
    assert json.loads((run / "published/summary.json").read_text())["kept"] == len(kept)


DROPS = ("undecodable", "too_small", "bad_aspect", "flat")
POOL = st.lists(st.sampled_from(["kept", "leak", "exact_duplicate", *DROPS]), max_size=5)
SEEDS = st.lists(st.sampled_from(["kept", "leak", *DROPS]), max_size=3)
RECIPE = st.fixed_dictionaries(
    {
        "retrieve.k": st.integers(1, 9),
        "retrieve.policy": st.sampled_from(["multiset", "distinct", "fill"]),
        "retrieve.keep": st.sampled_from(["retrieved", "all"]),
        "retrieve.keep_seeds": st.booleans(),
        "retrieve.encoder": st.sampled_from(["pixels", "pixels_centered"]),
        "duplicates.rule": st.sampled_from(["component", "direct"]),
        "duplicates.on_large": st.sampled_from(["split", "medoid"]),
        "decontaminate.reading": st.sampled_from(["component", "direct"]),
        "plant.count": st.integers(0, 4),
        "partition_images": st.sampled_from([1, 2, 4096]),
        "duplicates.block_images": st.sampled_from([1, 4096]),
        "duplicates.join": st.sampled_from(["auto", "cells"]),
    }
)


@settings(max_examples=6, phases=(Phase.explicit, Phase.generate))  # shrinking takes minutes
@given(POOL, SEEDS, st.lists(st.sampled_from(["kept", "undecodable"]), max_size=2), RECIPE)
def test_whatever_the_stages_take_away_every_image_has_its_reason(
    tmp_path_factory, pool, seeds, as_is, recipe
):
    folders = Folders(tmp_path_factory.mktemp("empty"))
    folders.fill({"pool": pool or ["flat"], "seed": seeds, "as_is": as_is})
    mode = "retrieve.mode=seeds" if seeds else "retrieve.mode=none"
    words = [f"{key}={value}" for key, value in recipe.items()]
    summary, rows = folders.curated(mode, "max_bad_rate=1", *words)
    check(summary, rows, folders.root / "run")
    for row in rows:
        fate = row["key"].partition("-")[0]
        if row["planted_from"] is None and fate != "kept" and not fate.startswith("original"):
            # A planted copy with more pixels may take the place of its original.
            assert row["reason"] in {fate, "near_duplicate" if recipe["plant.count"] else fate}
    usable = sum(fate == "kept" for fate in seeds)
    assert any("no seed was left" in r for r in summary.remarks) == (bool(seeds) and not usable)


@pytest.mark.parametrize(
    ("fates", "more", "remark"),
    [
        (
            {"pool": ["leak"] * 3},
            [],
            "of 6: reference 3 (never kept), leak 3 (decontaminate.threshold)",
        ),
        (
            {"pool": ["flat"] * 2 + ["too_small"]},
            [],
            "of 3: flat 2 (filter.min_std), too small 1 (filter.min_side)",
        ),
        ({"pool": ["kept"] * 2}, ["filter.min_side=500"], "of 2: too small 2 (filter.min_side)"),
        ({"pool": ["undecodable"]}, ["max_bad_rate=1"], "of 1: undecodable 1 (decode)"),
        (
            {"pool": ["kept"], "seed": ["flat"]},
            ["retrieve.mode=seeds"],
            "of 2: flat 1 (filter.min_std), not retrieved 1 (retrieve.k)",
        ),
        (
            {"pool": ["flat"], "seed": ["kept"]},
            ["retrieve.mode=seeds", "retrieve.keep_seeds=false"],
            "of 2: flat 1 (filter.min_std), seed 1 (retrieve.keep_seeds, retrieve.drop_seeds)",
        ),
    ],
    ids=["leaks", "flat", "small", "undecodable", "no seed", "no pool"],
)
def test_a_curation_that_keeps_nothing_ends_with_the_reasons(tmp_path, fates, more, remark):
    folders = Folders(tmp_path).fill(fates)
    summary, rows = folders.curated(*more)
    check(summary, rows, tmp_path / "run")
    assert summary.kept == 0
    assert remark in summary.remarks[-1]


def test_every_reason_of_a_dropped_image_has_its_key():
    assert DECIDING_KEYS.keys() == set(REASONS) - {"as_is", "retrieved", "kept"}


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """Folders of a curation that by one recipe keeps an image and by another, the last, none."""
    folders = Folders(tmp_path_factory.mktemp("nothing")).fill({"pool": ["kept", "flat"]})
    for kept, more in ((1, []), (0, ["filter.min_std=120"])) * 2:
        summary, rows = folders.curated(*more)
        check(summary, rows, folders.root / "run")
        assert summary.kept == kept
    return folders


def test_what_reads_a_curation_without_images_reports_that(nothing, tmp_path):
    with pytest.raises(UsageError, match=r"the curation kept no image - .*/run - "):
        open_images([str(nothing.root / "run")], cache=tmp_path)
    sources = json.dumps([{"role": "pool", "paths": [str(nothing.root / "run")]}])
    with pytest.raises(UsageError, match="the curation kept no image"):
        pools.curated(load_config(CurationConfig, None, [f"sources={sources}", f"out={tmp_path}"]))
    assert "is almost uniform" in explain(nothing.root / "run", 0).sentences[0]
    page = make_report(tmp_path / "report", curation=nothing.root / "run").html.read_text()
    assert "No image was kept, of 2: flat 2 (filter.min_std)." in page


def test_if_nothing_decodes_the_ledger_is_written_before_the_run_stops(tmp_path):
    folders = Folders(tmp_path).fill({"pool": ["undecodable"] * 2})
    for _ in range(2):  # started again, it has nothing to do and ends in the same way
        with pytest.raises(UsageError, match=r"none of the 2 images decodes \(2 not_an_image\)"):
            folders.curated()
    rows = pools.ledger(tmp_path / "run")
    assert [row["reason"] for row in rows] == ["undecodable"] * 2
    assert "cannot be decoded: not_an_image" in explain(tmp_path / "run", 0).sentences[0]
    page = make_report(tmp_path / "report", curation=tmp_path / "run").html.read_text()
    assert "No image was kept, of 2: undecodable 2 (decode)." in page


@pytest.mark.parametrize(
    ("pool", "more", "planted", "why"),
    [
        (5, ["plant.count=3"], 3, None),
        (5, ["plant.count=9"], 5, "planted 5 of 9 copies (plant.count): pool images 5"),
        (5, ["plant.count=9", "plant.max_share=0.5"], 2, "plant.max_share 0.5"),
        (1, ["plant.count=120", "plant.max_share=0.2"], 1, "planted 1 of 120 copies"),
        (0, ["plant.count=4"], 0, "planted 0 of 4 copies"),
    ],
)
def test_as_many_copies_are_planted_as_there_are_images_for(tmp_path, pool, more, planted, why):
    folders = Folders(tmp_path).fill({"pool": ["kept"] * pool, "as_is": ["kept"]})
    summary, rows = folders.curated(*more)
    check(summary, rows, tmp_path / "run")
    assert summary.planted == sum(row["planted_from"] is not None for row in rows) == planted
    assert [why in remark for remark in summary.remarks] == [True] * (why is not None)


def test_copies_of_what_is_then_filtered_are_checked_without_a_share(tmp_path):
    folders = Folders(tmp_path).fill({"pool": ["flat", "too_small", "undecodable"]})
    summary, rows = folders.curated("plant.count=3")
    check(summary, rows, tmp_path / "run")
    assert summary.planted == 2
    assert summary.remarks[0].endswith("2 of 3 pool images decode")
    assert summary.check["recall"] == {"value": None, "interval": None, "hits": 0, "n": 0}
    assert {point["recall"] for point in summary.check["curve"]} == {None}
    page = make_report(tmp_path / "report", curation=tmp_path / "run").html.read_text()
    assert "No planted copy was admitted together with its original" in page
