"""Metrics: what the signs of collapse are on made-up targets, and what is said about them."""

import json
import math

import pytest
import torch

from dinoforge.models.config import VitConfig
from dinoforge.models.vit import VisionTransformer
from dinoforge.training.guards import StopSignals
from dinoforge.training.heads import ProjectionHead
from dinoforge.training.methods.dino import Dino, Targets
from dinoforge.training.methods.method import Losses
from dinoforge.training.metrics import MetricsFile


@pytest.fixture(scope="module")
def method():
    head = ProjectionHead(64, hidden=8, bottleneck=4, prototypes=16)
    return Dino(VisionTransformer(VitConfig(width=64, depth=1, heads=1)), head)


def metrics(method, targets, features):
    one = torch.ones(())
    terms = {"dino_local": one, "dino_global": 2 * one}
    return method.metrics([Losses(one, terms)], [Targets(targets, targets, features)])


def test_uniform_targets_have_the_entropy_of_all_prototypes(method):
    row = metrics(method, torch.full((8, 16), 1 / 16), torch.randn(8, 64))
    assert row["teacher/entropy_of_mean"] == pytest.approx(math.log(16))
    assert row["teacher/mean_entropy"] == pytest.approx(math.log(16))


def test_targets_that_each_pick_another_prototype(method):
    row = metrics(method, torch.eye(16), torch.randn(16, 64))
    assert row["teacher/entropy_of_mean"] == pytest.approx(math.log(16))
    assert row["teacher/mean_entropy"] == 0


def test_healthy_features_have_a_deviation_of_one_and_collapsed_ones_of_zero(method):
    generator = torch.Generator().manual_seed(0)
    healthy = torch.randn(4096, 64, generator=generator)
    assert metrics(method, torch.eye(16), healthy)["features/std"] == pytest.approx(1, abs=0.02)
    same = healthy[:1].expand(4096, -1)
    assert metrics(method, torch.eye(16), same)["features/std"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("targets", "features", "reported"),
    [
        (torch.eye(16), torch.ones(16, 64), "features collapse"),
        (torch.full((16, 16), 1 / 16), torch.randn(16, 64), "almost uniform"),
        (torch.eye(16)[:1].expand(16, -1), torch.randn(16, 64), "few prototypes"),
        (torch.eye(16), torch.randn(16, 64), ""),
    ],
)
def test_a_known_way_to_fail_is_named(method, targets, features, reported):
    result = method.diagnose(metrics(method, targets, features))
    assert (
        result.startswith(reported) if reported in ("", "features collapse") else reported in result
    )
    assert bool(result) == bool(reported)


def test_going_on_drops_the_lines_after_the_checkpoint_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    with MetricsFile(tmp_path, resume_at=2) as file:
        file.write(3, {"loss/total": 1.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3, "loss/total": 1.0}]


def test_signals_are_handled_inside_and_restored_after():
    import os
    import signal

    before = signal.getsignal(signal.SIGUSR2)
    with StopSignals() as stop:
        assert stop.received == 0
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.received == signal.SIGUSR2
    assert signal.getsignal(signal.SIGUSR2) == before


def test_a_second_interrupt_at_the_keyboard_stops_at_once():
    import os
    import signal

    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
