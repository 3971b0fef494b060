"""The pieces of ``make bench-gpu``: they refuse a machine without a GPU, and run in miniature."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PIECES = {"kernels": ["kernels.py"], "throughput": ["throughput.py", "small"]}


def start(piece, *words):
    script, *rest = PIECES[piece]
    command = [sys.executable, str(ROOT / "benchmarks/gpu" / script), *rest, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("piece", PIECES)
def test_a_machine_without_a_gpu_is_reported_in_one_line(piece):
    done = start(piece)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no CUDA device - this machine - ")


def figures(folder):
    (path,) = folder.glob("*-gpu-*-tiny.json")
    result = json.loads(path.read_text())
    assert {"command", "commit", "machine", "versions"} <= result.keys()
    return result["figures"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_step_runs_in_miniature_by_every_way_that_runs_here(tmp_path):
    done = start("throughput", "--cpu", "--tiny", "--steps", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    actual = figures(tmp_path)
    ways = actual["variants"]
    assert ways.keys() == {"sdpa, separate", "plain, packed, checkpointed", "varlen, packed"}
    assert "varlen attention runs on CUDA devices only" in ways.pop("varlen, packed")["failed"]
    assert actual["gflops_per_image"] > 0
    for way in ways.values():
        assert way["images_per_s"] > 0
        assert way["tflops"] == pytest.approx(
            way["images_per_s"] * actual["gflops_per_image"] / 1000, abs=1e-4
        )
        assert 0.05 < way["peak_gib"] < 4
    losses = [way["loss"] for way in ways.values()]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)  # one computation, in bfloat16
    assert ways["plain, packed, checkpointed"]["attention"]["packed"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_attention_is_timed_in_miniature(tmp_path):
    done = start("kernels", "--cpu", "--tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    layers = figures(tmp_path)["layers"]
    assert len(layers) == 4
    for layer in layers.values():
        assert layer["milliseconds"].keys() == {"sdpa", "plain"}
        assert layer["refused"].keys() == {"varlen", "xformers"}
