"""The contract of a stage: it reads what it declares, and declares what it reads."""

import copy
from collections import defaultdict
from dataclasses import dataclass, replace

import pool as pools
import pyarrow as pa
import pytest
import toy
from benchmark_sets import write_clips, write_nyu, write_videos
from evaluations import evaluated, write_run
from searched_sets import write_edited, write_met, write_oxford
from shard_sets import run_shard, samples_of, write_tar

from dinoforge.config import Config
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import PIPELINE as CURATION
from dinoforge.curation.pipeline import STAGES
from dinoforge.curation.sharding.config import IdsConfig, ShardingConfig
from dinoforge.curation.sharding.pipeline import PIPELINE as SHARDING
from dinoforge.evaluation.config import EvaluationConfig, SetConfig
from dinoforge.evaluation.settings import (
    DepthConfig,
    HeadConfig,
    LeakageConfig,
    LinearConfig,
    SegmentationConfig,
    dino_v1,
)
from dinoforge.evaluation.suite import PIPELINE as EVALUATION
from dinoforge.stages.executor import make_executor
from dinoforge.stages.pipeline import Pipeline, make_inputs, run_stages
from dinoforge.stages.stage import Inputs, Output, UndeclaredReadError, stage_device
from dinoforge.tables import write_table

PIPELINES = (CURATION, EVALUATION, SHARDING)
pytestmark = pytest.mark.timeout(400)  # the first test of a worker runs all of them whole
FEW = HeadConfig(steps=2, batch_size=2)

# Stage -> what it declares but reads only under another recipe than that of this test: retrieval
# uses the embeddings of the duplicates when no encoder of its own is set, and without a background
# set there is nothing to weigh; rules have a k and a policy of their own; errors name sources.
WEIGHT = ("keys", "duplicates.background_weight")
SIDE = ("needs", "side")  # without tables that are joined to it
ONLY_SOMETIMES = {
    "ingest": {("execution_keys", "data.root")},
    "search": {
        ("needs", "embed"),
        ("execution_keys", "retrieve.k"),
        ("execution_keys", "retrieve.policy"),
    },
    "seed-clusters": {("needs", "embed")},
    "exclude": {("needs", "embed")},
    "graph": {WEIGHT},
    "export": {("keys", "decode"), SIDE},  # decode: to blur faces
    "filter": {SIDE},
    "select": {SIDE},
    "recall": {WEIGHT},
    "order": {("execution_keys", "sources")},
}


def declared(stage):
    names = ("keys", "execution_keys", "needs")
    return {(kind, name) for kind in names for name in getattr(stage, kind)}


def run_whole(stage, inputs):
    for index, payload in enumerate(stage.plan(inputs.scoped(stage))):
        out = Output(inputs.run_folder, inputs.folder(stage.name), index)
        stage.run(payload, inputs.scoped(stage), out)


@dataclass
class Recorded:
    """A run of a pipeline, and the keys and stages that each of its stages read."""

    pipeline: Pipeline
    config: Config
    reads: dict[str, set[tuple[str, str]]]


@pytest.fixture(scope="module")
def recorded(pool, tmp_path_factory):
    """Run all pipelines; by name."""
    reads = {pipeline.name: defaultdict(set) for pipeline in PIPELINES}
    current = None

    def note_read(inputs, kind, name):
        stage = inputs.stage
        if stage is not None:
            kind = (
                "needs" if kind == "stage" else "keys" if name in stage.keys else "execution_keys"
            )
            reads[current][stage.name].add((kind, name))

    out = tmp_path_factory.mktemp("contract")
    queries, references = map(str, write_edited(out / "edited"))
    table = pa.table({"uid": ["a"], "clip": [0.5]})
    write_table(out / "side.parquet", table, table.schema)
    configs = {
        "curation": pools.recipe(
            pool.sources,
            out / "run",
            "retrieve.encoder=pixels_centered",
            "retrieve.keep=all",
            "retrieve.rules=[{seeds: seed, k: 6}, {seeds: seed, name: near, mode: cluster},"
            "{seeds: reference, mode: exclude, threshold: 0.97}]",
            "retrieve.clusters=9",
            "balance.target=50",
            "balance.levels=[30,6]",
            "duplicates.join=cells",
            "duplicates.verify.mode=pixels",
            "duplicates.verify.windows=true",
            "side.columns=['*']",
            f"side.tables=['{out / 'side.parquet'}']",
            "scores=[{name: blur, scorer: blur}]",
            "filter.where=bytes > 100 and aspect < 9 and (blur < 9 or blur is null)",
        ),
        "evaluation": EvaluationConfig(
            out=str(out / "measured"),
            train=[pool.sources[0]["paths"][0]],
            checkpoint=str(write_run(out / "trained", steps=(1,))),
            baselines=["means=python:evaluations:mean_colors"],
            protocols=[
                *("knn", "few_shot", "linear", "linear_v1", "low_shot", "soft_nn"),
                *("logistic", "collapse"),
            ],
            linear=LinearConfig(epochs=1, epoch_steps=2, batch_size=4, views=1),
            linear_v1=dino_v1(epochs=1),
            sets={
                "nyu": SetConfig(layout="nyu_tars", root=str(write_nyu(out / "nyu"))),
                "videos": SetConfig(layout="video_tars", root=str(write_videos(out / "videos"))),
                "oxford": SetConfig(layout="roxford5k", root=str(write_oxford(out / "oxford"))),
                "met": SetConfig(layout="met", root=str(write_met(out / "met"))),
                "edited": SetConfig(layout="ground_truth", root=queries, train=[references]),
                "clips": SetConfig(layout="clips", root=str(write_clips(out / "clips"))),
            },
            segmentation=SegmentationConfig(size=[24, 24], head=FEW, test="sliding"),
            depth=DepthConfig(head=FEW),
            leakage=LeakageConfig(curation=[references]),
        ),
        "sharding": ShardingConfig(
            out=str(out / "shards"),
            sources=[str(write_tar(out / f"{name}.tar", samples_of(0, 4))) for name in "ab"],
            repeated_keys="rename",
            ids=IdsConfig(file=str(out / "ids.txt"), field="uid"),
            order="random",
            verify=True,
        ),
    }
    (out / "ids.txt").write_text(f"{1:032x}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inputs, "note_read", note_read)
        current = "curation"
        pools.curated(configs["curation"])
        current = "evaluation"
        evaluated(configs["evaluation"], out / "measured")
        current = "sharding"
        run_shard(configs["sharding"])
    return {
        pipeline.name: Recorded(pipeline, configs[pipeline.name], reads[pipeline.name])
        for pipeline in PIPELINES
    }


EACH_STAGE = pytest.mark.parametrize(
    ("pipeline", "stage"),
    [(pipeline.name, stage) for pipeline in PIPELINES for stage in pipeline.stages],
    ids=lambda value: value if isinstance(value, str) else value.name,
)


@EACH_STAGE
def test_a_stage_reads_exactly_what_it_declares(recorded, pipeline, stage):
    unread = ONLY_SOMETIMES.get(stage.name, set())
    assert recorded[pipeline].reads[stage.name] == declared(stage) - unread


@EACH_STAGE
def test_a_stage_that_declares_one_name_less_fails(recorded, pipeline, stage):
    config, stages = recorded[pipeline].config, recorded[pipeline].pipeline.stages
    inputs = make_inputs(pipeline, stages, pools.Path(config.out), config)
    for kind, name in declared(stage) - ONLY_SOMETIMES.get(stage.name, set()):
        less = copy.copy(stage)
        setattr(less, kind, tuple(other for other in getattr(stage, kind) if other != name))
        with pytest.raises(UndeclaredReadError, match=rf"stage {stage.name} reads "):
            run_whole(less, inputs)


class ReadsAnotherKey(toy.Keep):
    def run(self, payload, inputs, out):
        return super().run(payload, inputs, out) | {"numbers": inputs.config.numbers}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (ReadsAnotherKey(), "stage keep reads the recipe key numbers: add it to `keys`"),
        (replace(toy.Keep(), needs=()), "stage keep reads stage square: add it to `needs`"),
    ],
)
def test_an_undeclared_read_stops_the_run(tmp_path, stage, message):
    stages, config = (toy.Square(), stage), toy.ToyConfig()
    with pytest.raises(UndeclaredReadError, match=message):
        run_stages("toy", stages, tmp_path, config, make_executor("in-process"))


def test_the_kind_of_machine_depends_on_the_stage_and_the_device():
    config = CurationConfig(device="cuda")
    on_gpu = {stage.name for stage in STAGES if stage_device(stage, config) != "cpu"}
    embeds = {"embed", "embed-meaning", "embed-windows"}
    assert on_gpu == embeds | {
        "cells",
        "assign",
        "graph",
        "recall",
        "proposals",
        "search",
        "clusters",
        "pool-clusters",
        "seed-clusters",
        "exclude",
    }
    assert {stage_device(stage, CurationConfig()) for stage in STAGES} == {"cpu"}


def test_execution_keys_are_not_part_of_the_fingerprint(tmp_path):
    stages, executor = (toy.Square(), toy.Keep()), make_executor("in-process")
    first = run_stages("toy", stages, tmp_path, toy.ToyConfig(), executor)
    changed = replace(toy.ToyConfig(), pause_s=0.001)
    second = run_stages("toy", stages, tmp_path, changed, executor)
    assert second["square"].fingerprints == first["square"].fingerprints
    assert second["square"].num_run == 0
