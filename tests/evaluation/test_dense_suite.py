"""The recipe `dense` on tiny sets: what it measures, and the same bytes however it is run."""

import random
from argparse import Namespace

import pool as pools
import pytest
from benchmark_sets import write_camvid, write_nyu
from evaluations import write_run

from dinoforge.cli.evaluate import COMMAND
from dinoforge.cli.main import main
from dinoforge.records import read_records

SMALL = (
    *("device=cpu", "bootstrap.pooled_resamples=100", "partition_images=64"),
    *("segmentation.size=[48,48]", "segmentation.head.steps=20", "segmentation.head.batch_size=4"),
    *("in_context.size=[48,48]", "in_context.memory=100", "in_context.k=5"),
    *("depth.size=[48,48]", "depth.head.steps=20", "depth.head.lr=0.1", "depth.bins=32"),
)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("dense")
    write_camvid(root / "camvid")
    write_nyu(root / "nyu-depth-v2-sample")
    run = write_run(root / "trained", steps=(0, 1))
    return ["evaluate", "dense", f"data.root={root}", f"checkpoint={run}", *SMALL]


@pytest.fixture(scope="module")
def done(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    assert main([*words, f"out={folder}"]) == 0
    return folder


def test_every_protocol_has_numbers_of_networks_and_baselines(done):
    records = read_records(done / "records.jsonl")
    models = {}
    for record in records:
        models.setdefault((record.benchmark, record.metric), set()).add(record.model)
    assert {name for name, _ in models} == {
        *("segmentation/camvid", "in_context/camvid", "segmentation/nyu", "depth/nyu")
    }
    networks, place = {"trained", "untrained"}, {"color and position"}
    by_iou = [measured for (_, metric), measured in models.items() if metric == "mean_iou"]
    assert by_iou == [networks | place | {"majority class", "majority per position"}] * 3
    constants = {"median depth", "median per position"}
    assert models["depth/nyu", "rmse"] == networks | place | constants
    assert len({metric for name, metric in models if name == "depth/nyu"}) == 10
    features = {r.settings.get("features") for r in records if r.benchmark == "depth/nyu"}
    assert {"v2-lin1", "v3-lin1", "v3-lin4"} <= features
    heads = sorted(path.name for path in (done / "evaluation/42-depth").glob("*.head-*"))
    assert heads[:2] == [f"part-00000.head-{name}.safetensors" for name in ("v2-lin1", "v3-lin1")]


def test_two_processes_write_the_same_bytes(words, done, tmp_path):
    assert main([*words, f"out={tmp_path}", "--on", "local:2"]) == 0
    actual, reference = ((folder / "records.jsonl").read_bytes() for folder in (tmp_path, done))
    assert actual == reference


def test_kills_at_random_moments_change_nothing(words, tmp_path):
    result = pools.kill.measure(words, tmp_path, kills=2, draw=random.Random(3))
    assert result["kills"] == 2
    assert result["different"] == []
    assert result["files"] > 30


def test_the_command_prints_a_table_for_each_benchmark_and_differences(done, capsys):
    records = read_records(done / "records.jsonl")
    COMMAND.show(records, done, Namespace(all=True))
    lines = capsys.readouterr().out.splitlines()
    assert "depth/nyu, 4 images" in [line.strip() for line in lines]
    (header,) = [line.split() for line in lines if "abs_rel" in line]
    assert header[:6] == ["model", "features", "rmse", "a1", "a2", "a3"]
    pair = next(line.split() for line in lines if "trained - median depth" in line)
    assert pair[0] == "depth/nyu"
    assert {"v2-lin1", "rmse", ".."} <= set(pair)
    assert max(map(len, lines)) <= 120
    assert len(lines) < 130
    COMMAND.show(records, done, Namespace(all=False))
    short = capsys.readouterr().out.splitlines()
    assert "depth/nyu rmse" in "\n".join(short)
    assert max(map(len, short)) <= 100
    assert len(short) < len(lines)
