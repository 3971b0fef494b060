"""Dry runs on a machine without SLURM and without a GPU."""

import json

import pytest
from PIL import Image

from dinoforge.cli.main import main
from dinoforge.curation.pipeline import STAGES


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


def test_a_dry_run_for_cuda_needs_no_gpu_here(login_node, capsys):
    run = login_node / "run"
    words = [f"sources=[{{paths: [{login_node}/a.png]}}]", f"out={run}", "device=cuda"]
    assert main(["curate", *words, "--on", "slurm:h100", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not plan["checked"]
    requested = {row["stage"]: "1 GPU per node" in row["asks"] for row in plan["graph"]}
    on_gpu = {stage.name for stage in STAGES if stage.runs_on == "gpu"}
    assert {name for name, gpu in requested.items() if gpu} == on_gpu
    assert on_gpu
    assert len(plan["scripts"]) == 2
    assert not run.exists()


def test_a_dry_run_of_leaks_plans_the_stages_of_a_comparison(login_node, capsys):
    image, run = login_node / "a.png", login_node / "run"
    words = ["leaks", str(image), str(image), "--out", str(run), "--on", "slurm:cpu", "--dry-run"]
    assert main([*words, "--json"]) == 0
    stages = [row["stage"] for row in json.loads(capsys.readouterr().out)["graph"]]
    assert (stages[0], stages[-1]) == ("discover", "decontaminate")
    assert not run.exists()


def test_a_dry_run_of_a_training_for_cuda_needs_no_gpu_here(login_node, capsys):
    words = [f"data.paths=[{login_node}]", f"out={login_node / 'run'}", "device=cuda"]
    assert main(["train", "cifar10_cpu", *words, "--on", "slurm:h100", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "no SLURM here: not checked" in printed
    assert "train: gpu, 2 x 8 tasks, 12 CPUs, 8 GPUs per node" in printed
    assert "one job of 16 ranks, requeued until it is done" in printed


@pytest.mark.parametrize("name", ["a\\b", "a\nb"])
def test_a_name_that_no_batch_script_holds_is_refused_before_anything_is_written(
    tmp_path, capsys, name
):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    run = tmp_path / name / "run"
    words = [f"sources=[{{paths: [{tmp_path}/a.png]}}]", f"out={run}", "--on", "slurm:cpu"]
    for more in ([], ["--dry-run"]):
        assert main(["curate", *words, *more]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: the run folder cannot be named to SLURM - ")
    assert not run.parent.exists()
