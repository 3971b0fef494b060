"""A run that adds to another one decides as one run of all images does, but the base stays."""

import json
import shutil

import numpy as np
import pool as pools
import pytest

from dinoforge.cli.main import main
from dinoforge.curation import increments
from dinoforge.curation.explain import explain
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.stored.generations import every_generation, first_id
from dinoforge.curation.tables import read_pairs
from dinoforge.errors import UsageError
from dinoforge.stages import make_inputs

# Chains of several pairs across both halves, references of both.
LOW = (
    *("duplicates.floor=0.6", "duplicates.threshold=0.65", "decontaminate.threshold=0.7"),
    *("retrieve.k=3", "retrieve.keep=all", "plant.count=0", "filter.min_side=16"),
)


def half(pool, name, roles=("seed", "pool", "reference")):
    """Return sources: half of the images of each role."""
    keys = {"first": ["*y[14]50*", "copied", "leaked"], "second": ["*y[03]00*"]}[name]
    folders = {"seed": "seeds", "pool": "pool", "reference": "test"}
    few = {"copied": "pool", "leaked": "reference"}
    return [
        {"role": role, "name": f"{role} {name}", "keys": key}
        | {"paths": [str(pool.folder / folders[role])]}
        for role in roles
        for key in keys
        if few.get(key, role) == role
    ]


@pytest.fixture(scope="module")
def base(pool, tmp_path_factory):
    out = tmp_path_factory.mktemp("base") / "run"
    pools.curated(pools.recipe(half(pool, "first"), out, *LOW))
    return out


@pytest.fixture(scope="module")
def added(pool, base, tmp_path_factory):
    out = tmp_path_factory.mktemp("added") / "run"
    config = pools.recipe(half(pool, "second"), out, *LOW, f"base={base}")
    return config, pools.curated(config)


@pytest.fixture(scope="module")
def at_once(pool, tmp_path_factory):
    """One run of all, in which the first half is preferred; ids are those of base and increment."""
    out = tmp_path_factory.mktemp("at_once") / "run"
    sources = [*half(pool, "first"), *half(pool, "second")]
    prefer = ("duplicates.prefer=[source]", "duplicates.prefer_sources=[pool first]")
    config = pools.recipe(sources, out, *LOW, *prefer)
    pools.curated(config)
    return config


def pairs_of(config):
    i, j, similarity = read_pairs(make_inputs("curation", STAGES, pools.Path(config.out), config))
    return {(a, b): s for a, b, s in zip(i.tolist(), j.tolist(), similarity.tolist(), strict=True)}


def test_the_pairs_are_those_of_one_run(added, at_once):
    pairs, others = pairs_of(added[0]), pairs_of(at_once)
    assert pairs.keys() == others.keys()
    np.testing.assert_allclose([*pairs.values()], [others[p] for p in pairs], atol=1e-5)


def test_the_same_new_images_are_kept_as_in_one_run(base, added, at_once):
    first, second = pools.ledger(base), pools.ledger(pools.Path(added[0].out))
    every = pools.ledger(pools.Path(at_once.out))
    assert [row["image_id"] for row in (*first, *second)] == list(range(len(every)))
    assert [row["key"] for row in (*first, *second)] == [row["key"] for row in every]
    for row in second:
        other = every[row["image_id"]]
        assert (row["decision"], row["reason"]) == (other["decision"], other["reason"]), row["key"]
    kept = [row["image_id"] for row in first if row["decision"] == "kept"]
    assert {r["image_id"] for r in every[: len(first)] if r["decision"] == "kept"} <= set(kept)
    reasons = {(row["role"], row["reason"]) for row in second}
    assert reasons > {("pool", "retrieved"), ("pool", "kept"), ("seed", "seed")}


def test_the_ledger_and_explain_name_the_generation(base, added, capsys):
    out = added[0].out
    rows = pools.ledger(pools.Path(out))
    assert {row["generation"] for row in rows} == {1}
    assert {row["generation"] for row in pools.ledger(base)} == {0}
    first = rows[0]["image_id"]
    row = next(r for r in rows if r["reason"] == "near_duplicate" and r["duplicate_of"] < first)
    assert main(["explain", out, row["key"]]) == 0
    text = capsys.readouterr().out
    keeper = pools.ledger(base)[row["duplicate_of"]]["key"]
    assert f"`{keeper}` (image {row['duplicate_of']}, generation 0 in {base})" in text
    assert "is in an earlier generation, which stays as it is" in text
    assert main(["explain", out, str(row["duplicate_of"])]) == 0
    assert f"`{keeper}` (image {row['duplicate_of']}) was kept" in capsys.readouterr().out


def test_what_leaks_and_what_is_a_duplicate_is_counted_apart(base, added):
    summary = added[1]
    rows = pools.ledger(pools.Path(added[0].out))
    first = rows[0]["image_id"]
    duplicates = [r for r in rows if r["reason"] in {"exact_duplicate", "near_duplicate"}]
    of_base = sum(row["duplicate_of"] < first for row in duplicates)
    assert summary.base["duplicates"] == of_base > 0
    assert any(row["reason"] == "exact_duplicate" for row in duplicates)
    of_base_reference = [r for r in rows if r["reason"] == "leak" and r["duplicate_of"] < first]
    dropped = {name: one["dropped"] for name, one in summary.leaks["references"].items()}
    assert dropped["reference first"] == len(of_base_reference) > 0
    (leaked,) = summary.base["leaks"].values()
    kept = {row["image_id"] for row in pools.ledger(base) if row["decision"] == "kept"}
    assert 0 < len(leaked) == len(kept & set(leaked))
    assert f"dinoforge takedown {base} {leaked[0]}" in "".join(summary.remarks)


def test_workers_and_a_second_start_change_nothing(pool, base, added, tmp_path):
    config = pools.recipe(half(pool, "second"), tmp_path / "run", *LOW, f"base={base}")
    pools.curated(config, on="local:2")
    assert pools.differences(tmp_path / "run", pools.Path(added[0].out)) == []
    before = pools.kill.state(tmp_path / "run")
    pools.curated(config)
    assert pools.kill.state(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["base=nowhere"], "the base is not a finished curation run - nowhere"),
        (["base=OUT"], "the run folder is also a source"),
        (["duplicates.encoder=pixels_raw"], "`duplicates.encoder` is pixels_raw, the base was"),
        (["decode.alpha_background=0"], "`decode.alpha_background` is 0, the base was made with"),
        (["filter.min_std=3"], "`filter.min_std` is 3.0, the base was made with 2.0"),
        (
            ["duplicates.floor=0.3", "duplicates.threshold=0.5"],
            "`duplicates.threshold` is 0.5, pairs of the base are stored above 0.6 only",
        ),
    ],
)
def test_a_base_that_does_not_fit_is_refused_in_one_line(
    pool, base, tmp_path, capsys, keys, message
):
    sources = json.dumps([{"role": "pool", "paths": [str(pool.folder / "seeds")]}])
    words = [f"sources={sources}", f"out={tmp_path / 'run'}", *pools.SMALL, *LOW, f"base={base}"]
    keys = [key.replace("OUT", str(tmp_path / "run")) for key in keys]
    assert main(["curate", *words, *keys, "-q"]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    assert message in line
    assert not (tmp_path / "run/curation").exists()


def damage(run, stage, **changes):
    """Change what the first marker of a stage states."""
    path = run / "curation" / stage / "part-00000.done"
    marker = json.loads(path.read_text())
    facts = changes.pop("facts", {})
    path.write_text(json.dumps(marker | changes | {"facts": marker["facts"] | facts}))


def test_leaks_takes_no_base(pool, base, tmp_path, capsys):
    folders = [str(pool.folder / name) for name in ("seeds", "test")]
    assert main(["leaks", *folders, f"base={base}", "--out", str(tmp_path / "leaks"), "-q"]) == 2
    assert "`base` is a key of `dinoforge curate`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("30-embed", {"facts": {"encoder": "x"}}, "another version of the encoder pixels"),
        ("20-inspect", {"version": "1.2.0+old"}, "the base was made with the decoder old, this is"),
        ("40-graph", {"version": "0.1"}, "the base was made with version 0.1 of the stage graph"),
    ],
)
def test_a_base_of_another_encoder_decoder_or_version_is_refused(
    pool, base, tmp_path, stage, changes, message
):
    copy = shutil.copytree(base, tmp_path / "base")
    damage(copy, stage, **changes)
    config = pools.recipe(half(pool, "second"), tmp_path / "run", *LOW, f"base={copy}")
    with pytest.raises(UsageError, match=message):
        pools.curated(config)


def test_a_base_that_is_older_than_a_stage_is_refused(pool, base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "base")
    shutil.rmtree(next((copy / "curation").glob("*-seed-clusters")))
    config = pools.recipe(half(pool, "second"), tmp_path / "run", *LOW, f"base={copy}")
    with pytest.raises(UsageError, match="before there was a stage seed-clusters"):
        pools.curated(config)


def test_a_third_generation_is_compared_with_both(pool, base, added, tmp_path, monkeypatch):
    run = tmp_path / "run"
    config = pools.recipe(half(pool, "first", ["pool"]), run, *LOW, f"base={added[0].out}")
    pools.curated(config)
    rows, second = pools.ledger(run), pools.ledger(pools.Path(added[0].out))
    assert rows[0]["image_id"] == second[-1]["image_id"] + 1
    assert {row["generation"] for row in rows} == {2}
    decoded = [row for row in rows if row["reason"] != "flat"]
    assert {row["reason"] for row in decoded} == {"exact_duplicate"}
    assert max(row["duplicate_of"] for row in decoded) < second[0]["image_id"]
    assert "generation 0 in" in " ".join(explain(run, decoded[0]["image_id"]).sentences)
    monkeypatch.setattr(increments, "generation_fingerprint", lambda _: "another one")
    with pytest.raises(UsageError, match="the base has changed since the run was added to it"):
        pools.curated(config)


def test_images_are_numbered_again_if_the_base_decides_otherwise(pool, base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "base")
    config = pools.recipe(half(pool, "second"), tmp_path / "run", *LOW, f"base={copy}")
    inputs = make_inputs("curation", STAGES, tmp_path / "run", config)
    (ingest,) = (stage for stage in STAGES if stage.name == "ingest")
    before = ingest.plan(inputs)
    assert main(["takedown", str(copy), "copied", "-q"]) == 0
    assert ingest.plan(inputs) == before
    damage(copy, "50-components", fingerprint="x")
    assert ingest.plan(inputs) != before


def test_what_was_taken_down_from_the_base_does_not_come_back(pool, base, tmp_path, capsys):
    copy, run = shutil.copytree(base, tmp_path / "base"), tmp_path / "run"
    (copied,) = (row for row in pools.ledger(copy) if row["key"] == "copied")
    assert main(["takedown", str(copy), "copied", "--reason", "request 7", "-q"]) == 0
    pools.curated(pools.recipe(half(pool, "second", ["pool"]), run, *LOW, f"base={copy}"))
    (row,) = (row for row in pools.ledger(run) if row["sha256"] == copied["sha256"])
    assert (row["decision"], row["reason"]) == ("dropped", "taken_down")
    assert row["detail"].endswith("request 7")
    kept = next(row for row in pools.ledger(run) if row["decision"] == "kept")
    assert main(["takedown", str(run), str(kept["image_id"]), "-q"]) == 0
    assert kept["out_key"] not in pools.samples(run)
    assert main(["takedown", str(run), "0", "-q"]) == 2
    assert "image 0 belongs to the base" in capsys.readouterr().err


def test_the_report_shows_images_of_the_base_and_counts_the_others(base, added, tmp_path):
    assert main(["report", str(tmp_path), "--curation", added[0].out, "-q"]) == 0
    facts = json.loads((tmp_path / "report.json").read_text())["curation"]
    assert facts["funnel"]["images"] == added[1].images
    heads = {group["head"]["image_id"] for group in facts["sheets"]["duplicates"]}
    assert min(heads) < len(pools.ledger(base)) <= max(heads)
    text = (tmp_path / "report.html").read_text()
    assert f"compared with {len(pools.ledger(base))} images of earlier generations" in text
    assert "no picture" not in text


def test_new_images_are_put_into_the_cells_of_the_base(pool, added, tmp_path):
    cells = ("duplicates.join=cells", "duplicates.cells=4", "duplicates.cells_per_image=1")
    base, run = tmp_path / "base", tmp_path / "run"
    pools.curated(pools.recipe(half(pool, "first"), base, *LOW, *cells))
    blocks = ("duplicates.block_images=3", "duplicates.blocks_per_partition=400")
    keys = (*LOW, *cells[::2], *blocks, f"base={base}")
    config = pools.recipe(half(pool, "second"), run, *keys)
    summary = pools.curated(config)
    inputs = make_inputs("curation", STAGES, run, config)
    nearest = {}
    for of_run in every_generation(inputs):
        ids = np.load(of_run.file("exact", "images.npy")).tolist()
        rows = [np.load(path) for path in of_run.files("assign", "nearest.npy")]
        nearest |= dict(zip(ids, map(set, np.concatenate(rows).tolist()), strict=True))
    exact = pairs_of(added[0])
    expected = [(i, j) for i, j in exact if not {i, j} <= nearest.keys() or nearest[i] & nearest[j]]
    assert pairs_of(config).keys() == set(expected) < exact.keys()
    plan = json.loads((inputs.folder("graph") / "plan.json").read_text())["payloads"]
    assert {"cell", "first_cell"} <= set().union(*plan)  # blocks of large cells, ranges of others
    # The sample has all new images: a pair of two of them is in it twice.
    first = first_id(inputs)
    counts = [
        sum((i >= first) + (j >= first) for i, j in pairs if nearest.keys() >= {i, j})
        for pairs in (expected, exact)
    ]
    recall = summary.join["recall_above_floor"]
    assert [recall["hits"], recall["n"]] == counts
