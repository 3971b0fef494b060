"""The whole loop on real files: stopping, going on, refusing, and what it leaves behind."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dinoforge.errors import DinoforgeError, Interrupted, UsageError
from dinoforge.runs import Run
from dinoforge.steps import step_name
from dinoforge.training import loop
from dinoforge.training.distributed.checkpoint import read_whole
from dinoforge.training.loop import Trainer, train

ROOT = Path(__file__).resolve().parents[2]

REQUIRED = {
    "loss/total",
    "loss/dino",
    "loss/dino_local",
    "loss/dino_global",
    "loss/ibot",
    "loss/koleo",
    "teacher/entropy_of_mean",
    "teacher/mean_entropy",
    "features/std",
    "gradient/backbone",
    "gradient/dino_head",
    "gradient/ibot_head",
    "schedule/lr",
    "schedule/last_layer_lr",
    "schedule/weight_decay",
    "schedule/momentum",
    "schedule/teacher_temperature",
    "clock/images_per_s",
    "clock/data_wait_s",
}


def run(config):
    with Run.open(Path(config.out), config, command="train", on_change="update") as opened:
        return train(config, opened.folder)


def after_step(monkeypatch, step, action):
    """Do something right after an update, before anything is written about it."""
    original = Trainer.run_step

    def run_step(self, batch, waited_s):
        row = original(self, batch, waited_s)
        if self.step == step:
            action()
        return row

    monkeypatch.setattr(loop.Trainer, "run_step", run_step)


def rows(config):
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith("clock/")}
        for line in lines
    ]


def state_folder(config, step):
    return Path(config.out) / "checkpoints" / step_name(step)


def state_file(config, step):
    (file,) = state_folder(config, step).glob("*.distcp")
    return file


def assert_same_run(result, wanted):
    """Weights, teacher, centers, optimizer, backbone and metrics, all bit for bit."""
    steps = wanted.steps
    assert rows(result) == rows(wanted)
    one, other = (read_whole(state_folder(config, steps)) for config in (result, wanted))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    export = Path("export") / step_name(steps) / "model.safetensors"
    assert (Path(result.out) / export).read_bytes() == (Path(wanted.out) / export).read_bytes()


@pytest.fixture
def whole(tiny):
    """Make and run an uninterrupted training with the same changes."""

    def make(*changes):
        config = tiny(*changes, out="whole")
        run(config)
        return config

    return make


@pytest.fixture
def mixture(make_folder, tmp_path):
    """Changes that train on six images, and in every third step on two others."""
    crawl, own = (make_folder(tmp_path / name, n) for name, n in (("crawl", 6), ("own", 2)))
    parts = f"{{name: crawl, paths: ['{crawl}'], weight: 2}}, "
    parts += f"{{name: own, paths: ['{own}'], weight: 1, batches: homogeneous}}"
    return "data.paths=[]", f"data.parts=[{parts}]"


@pytest.mark.parametrize(
    ("changes", "is_mixed"),
    [
        (("model.drop_path=0.4",), False),
        (("teacher.balance=centering", "separate_heads=false"), True),
    ],
    ids=["sinkhorn-separate-drop-path", "centering-shared-mixture"],
)
def test_stopped_by_a_signal_and_started_again_equals_never_stopped(
    tiny, whole, monkeypatch, mixture, changes, is_mixed
):
    changes += mixture if is_mixed else ()
    config = tiny(*changes, "checkpoint.every=100")
    with monkeypatch.context() as patch:
        after_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="SIGTERM at step 3: saved") as caught:
            run(config)
    assert caught.value.exit_code == 75
    assert json.loads((Path(config.out) / "run.json").read_text())["exit_code"] == 75
    assert [row["step"] for row in rows(config)] == [1, 2, 3]
    assert state_file(config, 3).is_file()
    assert run(config).steps == 6
    assert_same_run(config, whole(*changes, "checkpoint.every=100"))


def test_a_mixture_reports_its_parts_and_belongs_to_the_recipe(tiny, mixture):
    config = tiny(*mixture, "steps=3")
    with Run.open(Path(config.out), config, command="train") as opened:
        summary = train(config, opened.folder, opened.facts)
    wanted = [("crawl", 6, 8, 8 / 6), ("own", 2, 4, 2.0)]
    assert [tuple(part.values()) for part in summary.parts] == wanted
    assert json.loads((Path(config.out) / "run.json").read_text())["parts"] == summary.parts
    assert "part own: 4 images seen, 2.00 passes over 2 images" in summary.lines()
    seen = [row["parts/crawl/seen"] + row["parts/own/seen"] for row in rows(config)]
    assert seen == [4, 8, 12]
    changed = tiny(*mixture[:1], mixture[1].replace("weight: 2", "weight: 3"), "steps=3")
    with pytest.raises(UsageError, match=r"recipe of this finished run changed: `data\.parts`"):
        Run.open(Path(config.out), changed, command="train")


def test_a_crash_between_two_checkpoints_loses_only_the_steps_since(tiny, whole, monkeypatch):
    config = tiny("checkpoint.every=2")

    def crash():
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        after_step(patch, 5, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run(config)
    metrics = Path(config.out) / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 5, "loss/to')  # half a line
    run(config)
    assert_same_run(config, whole("checkpoint.every=2"))


@pytest.mark.parametrize("damage", ["cut short", "one bit", "no manifest"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_taken(
    tiny, whole, monkeypatch, caplog, damage
):
    config = tiny("checkpoint.every=2", "checkpoint.keep=1", "checkpoint.keep_every=2")
    with monkeypatch.context() as patch:
        after_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(Interrupted, match="SIGUSR1"):
            run(config)
    newest = state_file(config, 4)
    content = bytearray(newest.read_bytes())
    if damage == "cut short":
        newest.write_bytes(content[:-100])
    elif damage == "one bit":
        content[-100] ^= 1
        newest.write_bytes(content)
    else:
        (newest.parent / "manifest.json").unlink()
    with caplog.at_level(logging.INFO):
        run(config)
    assert "CHECKPOINT DAMAGED, using an older one" in caplog.text
    assert step_name(4) in caplog.text
    assert "resuming from step 2" in caplog.text
    assert_same_run(config, whole("checkpoint.every=2"))


def test_metrics_have_every_term_at_every_line(tiny):
    config = tiny("log_every=2", "steps=5")
    summary = run(config)
    lines = [
        json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [2, 4, 5]
    for line in lines:
        assert line.keys() >= REQUIRED
        weighted = line["loss/dino"] + line["loss/ibot"] + 0.1 * line["loss/koleo"]
        assert line["loss/total"] == pytest.approx(weighted, rel=1e-5)
        assert line["clock/images_per_s"] > 0
        assert line["clock/data_wait_s"] > 0
    assert summary.last == {k: v for k, v in lines[-1].items() if k != "step"}
    assert summary.steps == 5
    assert summary.images == 10
    assert Path(summary.export).is_file()


def test_a_finished_run_has_nothing_left_to_do(tiny):
    config = tiny()
    run(config)
    before = state_file(config, 6).read_bytes()
    assert run(config).steps == 6
    assert state_file(config, 6).read_bytes() == before
    assert [row["step"] for row in rows(config)] == [1, 2, 3, 4, 5, 6]


def everything(trainer):
    tensors = dict(trainer.method.state_dict())
    for name, parameter in trainer.method.student.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("kind", ["loss", "gradient of backbone"])
def test_what_is_not_finite_stops_before_the_update_and_names_the_samples(tiny, kind):
    trainer = Trainer(tiny(), Path(tiny().out))
    batches = trainer.batches()
    trainer.run_step(*next(batches))
    backbone = trainer.method.student["backbone"]
    if kind == "loss":
        backbone.norm.bias.data[0] = torch.nan
    else:
        backbone.cls_token.register_hook(lambda gradient: gradient * torch.inf)
    before = everything(trainer)
    batch, waited = next(batches)
    with pytest.raises(DinoforgeError, match=f"{kind}.* not finite before .* step 2") as caught:
        trainer.run_step(batch, waited)
    assert all(key in str(caught.value) for key in batch.keys)
    assert trainer.step == 1
    after = everything(trainer)
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_the_checkpoint_of_before_survives_a_step_that_is_not_finite(tiny, monkeypatch):
    config = tiny("checkpoint.every=2")
    original = Trainer.run_step

    def poison(self, batch, waited_s):
        if self.step == 4:
            self.method.student["dino_head"].mlp[0].weight.data[0, 0] = torch.inf
        return original(self, batch, waited_s)

    monkeypatch.setattr(loop.Trainer, "run_step", poison)
    with pytest.raises(DinoforgeError, match="not finite"):
        run(config)
    saved = read_whole(state_folder(config, 4))
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def test_prototypes_are_frozen_for_the_first_steps_only(tiny):
    config = tiny("optimizer.freeze_last_layer=2")
    trainer = Trainer(config, Path(config.out))
    head = trainer.method.student["dino_head"]
    start = {name: p.detach().clone() for name, p in head.named_parameters()}
    for batch, waited in trainer.batches():
        trainer.run_step(batch, waited)
        moved = {name for name, p in head.named_parameters() if not torch.equal(p, start[name])}
        prototypes = {"last_layer.weight_g", "last_layer.weight_v"}
        assert (moved >= prototypes) == (trainer.step > 2)
        assert "mlp.0.weight" in moved


def test_the_teacher_moves_by_the_momentum_of_the_step(tiny):
    config = tiny("teacher.momentum_start=0.9", "teacher.momentum_end=0.9")
    trainer = Trainer(config, Path(config.out))
    before = {n: p.clone() for n, p in trainer.method.teacher.named_parameters()}
    trainer.run_step(*next(trainer.batches()))
    for name, parameter in trainer.method.student.named_parameters():
        result = trainer.method.teacher.get_parameter(name)
        torch.testing.assert_close(result, 0.9 * before[name] + 0.1 * parameter.detach())


def test_undecodable_pictures_are_replaced_counted_and_reported(tiny, own_pictures, caplog):
    content = (own_pictures / "004.jpg").read_bytes()
    (own_pictures / "004.jpg").write_bytes(content[: len(content) // 2])
    summary = run(tiny(images=own_pictures))
    assert summary.undecodable == 1
    assert any("1 undecodable images replaced" in line for line in summary.lines())
    assert "replaced 004" in caplog.text
    assert "truncated" in caplog.text


@pytest.mark.timeout(400)
def test_sigterm_ends_the_command_with_75_and_the_same_command_finishes(tiny, pictures, tmp_path):
    """As a scheduler does it: another process, the command line, a real signal."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text((Path(__file__).with_name("tiny.yaml")).read_text())
    out = tmp_path / "run"
    command = [sys.executable, "-m", "dinoforge", "train", str(recipe)]
    command += [f"out={out}", f"data.paths=['{pictures}']", "steps=60"]
    metrics = out / "metrics.jsonl"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert time.monotonic() < deadline, "no metrics after two minutes"
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, reported = process.communicate(timeout=120)
    assert process.returncode == 75, reported
    assert "start the same command again" in reported
    saved = max((out / "checkpoints").iterdir())
    stopped_at = int(saved.name.removeprefix("step-"))
    assert 3 <= stopped_at < 60
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert f"resuming from step {stopped_at}" in done.stderr
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 61))


def test_an_export_deleted_by_hand_is_made_again(tiny):
    config = tiny()
    run(config)
    export = Path(config.out) / "export"
    before = (export / step_name(6) / "model.safetensors").read_bytes()
    shutil.rmtree(export)
    summary = run(config)
    assert Path(summary.export).read_bytes() == before


def test_one_image_fills_a_batch_and_the_log_reports_it(tiny, tmp_path, own_pictures, caplog):
    for path in sorted(own_pictures.iterdir())[1:]:
        path.unlink()
    summary = run(tiny("steps=2", images=own_pictures))
    assert summary.lines()[0].startswith("2 steps on 1 image, ")
    assert "batch_size 4 is more than the 1 images" in caplog.text
