"""The plan of a curation: against the stages of a finished run, and of a billion images."""

import json
import time
from dataclasses import replace

import numpy as np
import pool as pools
import pytest

from dinoforge.config import find_recipe, load_config
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.plan import COSTS, Images, plan_curation, read_trial
from dinoforge.device import GPUS
from dinoforge.errors import UsageError
from dinoforge.tables import read_table

RULES = [
    "sources=[{role: pool, paths: [x]}, {role: seed, name: landmarks, paths: [y]}, "
    "{role: seed, name: pets, paths: [z]}, "
    "{role: reference, name: nsfw, paths: [w]}]",
    "retrieve.mode=seeds",
    "retrieve.clusters=100000",
    "retrieve.rules=[{seeds: landmarks, k: 4, policy: multiset}, "
    "{seeds: pets, mode: cluster, cap: 1000000}, {seeds: nsfw, mode: exclude}]",
]

# Stages whose outputs depend on nothing that a plan does not know, as what is in a source.
FILES_PLANNED = {
    *("discover", "ingest", "inspect", "embed", "exact", "search", "retrieve", "select")
}


def plan(config, **images):
    return plan_curation(config, Images(**images), gpu=GPUS["h100"])


def test_every_stage_has_a_cost():
    assert list(COSTS) == [stage.name for stage in STAGES]


def test_partitions_files_and_embeddings_are_those_of_a_finished_run(pool, calm):
    config = pools.recipe(pool.sources, calm)
    files = sorted((calm / "curation").glob("1*-*/*index.parquet"))
    role = np.concatenate([read_table(f).column("role").to_numpy() for f in files])
    planted = sum(read_table(f).column("planted_from").is_valid().to_numpy().sum() for f in files)
    count = {name: int(np.count_nonzero(role == name)) for name in ("pool", "reference", "as_is")}
    count["pool"] -= int(planted)
    seeds = {"seed": int(np.count_nonzero(role == "seed"))}
    references = {"test": count.pop("reference")}
    as_is = {"as_is": count.pop("as_is")}
    sets = {"seeds": seeds, "references": references, "as_is": as_is}
    planned = {p.stage: p for p in plan(config, **count, **sets).stages}
    for stage in STAGES:
        folder = calm / "curation" / f"{stage.number:02d}-{stage.name}"
        markers = [json.loads(path.read_text()) for path in folder.glob("part-*.done")]
        assert (stage.name in planned) == bool(markers), stage.name
        if stage.name in FILES_PLANNED:
            outputs = [output for marker in markers for output in marker["outputs"]]
            one = planned[stage.name]
            assert (one.partitions, one.files) == (len(markers), len(outputs) + len(markers) + 1)
            if stage.name == "embed":
                assert one.bytes == sum(o["bytes"] for o in outputs) - 128 * len(markers)


def test_a_trial_corrects_the_plan_by_what_it_measured(pool, calm):
    config, trial = pools.recipe(pool.sources, calm), read_trial(calm)
    # As if a machine were that much slower: the stages of this run take less than a second.
    measured = dict(trial.measured)
    for name, factor in {"inspect": 3e5, "graph": 2e5}.items():
        cost = trial.planned[name]
        seconds = factor * (cost.core_s + cost.product_s)
        assert seconds > 1
        measured[name] = replace(measured[name], cpu_s=seconds)
    slow = replace(trial, measured=measured)
    assert slow.speed == pytest.approx(2.5e5)
    plain, corrected = (
        {
            stage.stage: stage
            for stage in plan_curation(
                config, replace(trial.images, pool=5000), gpu=GPUS["h100"], trial=given
            ).stages
        }
        for given in (None, slow)
    )
    for name, factor in {"inspect": 3e5, "graph": 2e5, "select": 2.5e5}.items():
        expected = pytest.approx(factor * plain[name].core_hours)
        assert corrected[name].core_hours == expected
    itself = plan_curation(config, trial.images, gpu=GPUS["h100"], trial=trial)
    for stage in itself.stages:
        assert stage.bytes == measured[stage.stage].bytes


def test_a_trial_is_a_finished_curation(tmp_path):
    with pytest.raises(UsageError, match="not a finished curation run"):
        read_trial(tmp_path)


def test_a_billion_images_are_planned_in_seconds_and_joined_by_cells():
    started = time.process_time()
    recipe = find_recipe("curation", "precise")
    config = load_config(CurationConfig, recipe, ["sources=[{role: pool, paths: [x]}]"])
    planned = plan(config, pool=1_300_000_000, references={"test": 1_000_000})
    assert time.process_time() - started < 20
    stages = {p.stage: p for p in planned.stages}
    assert (planned.cells, planned.shards) == (152_971, 274_436)
    assert stages["embed"].bytes == 1_301_000_000 * 128 * 2
    assert stages["inspect"].partitions == -(-1_301_000_000 // 4096)
    json.dumps(planned.as_json(), allow_nan=False)


def test_rules_count_slots_per_seed_and_images_per_cluster():
    config = load_config(CurationConfig, None, RULES)
    seeds = {"landmarks": 1_580_470, "pets": 3_680}
    planned = plan(config, pool=744_000_000, seeds=seeds, references={"nsfw": 5000})
    # Table 15 of DINOv2: 6,321,880 slots of the landmarks; the pets are capped at a million.
    assert planned.exported == 4 * 1_580_470 + 1_000_000 + sum(seeds.values())
    stages = {p.stage: p for p in planned.stages}
    assert stages["search"].partitions == -(-744_000_000 // 65_536)  # one set is searched
    assert stages["seed-clusters"].partitions == 1
    assert stages["exclude"].partitions == stages["search"].partitions
    with pytest.raises(UsageError, match="no number of images of `pets`"):
        plan(config, pool=1000, seeds={"landmarks": 10})


def test_tables_and_lists_of_hashes_cost_what_their_rows_and_lines_do(tmp_path):
    (tmp_path / "few.txt").write_text("0123456789abcdef\n")
    (tmp_path / "many.txt").write_text("0123456789abcdef\n" * 100_000)

    def hours(**images):
        words = ["sources=[{role: pool, paths: [x]}]", "side.columns=[a]", "side.tables=[none]"]
        words.append(f"scores=[{{name: p, scorer: 'phash:{tmp_path}/{images.pop('listed')}.txt'}}]")
        stages = {
            p.stage: p for p in plan(load_config(CurationConfig, None, words), **images).stages
        }
        return stages["score"].core_hours, stages["side-tables"]

    score, joined = hours(pool=1 << 22, listed="few")
    more, twice = hours(pool=1 << 22, side_rows=1 << 23, listed="many")
    assert more - score == pytest.approx((1 << 22) * 99_999 * 0.7e-9 / 3600)
    assert joined.partitions == twice.partitions == 4
    # Every partition passes through all rows; what an image gets is written once.
    passed = 4 * (1 << 22) * (450e-9 + 20 * 50e-9) / 3600
    assert twice.core_hours - joined.core_hours == pytest.approx(passed)
    assert twice.task_bytes == joined.task_bytes
