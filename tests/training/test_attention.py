"""The attention of a run: decided once, said, written down, and kept when the run goes on."""

import json
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.models.attention import BACKENDS
from dinoforge.models.attention_choice import AttentionChoice
from dinoforge.runs import Run
from dinoforge.training import attention
from dinoforge.training.attention import (
    attention_problem,
    choose_setting,
    remember,
    settle_attention,
)
from dinoforge.training.build import build_method
from dinoforge.training.loop import Trainer, train

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def blocks(method):
    return [b for part in (method.student, method.teacher) for b in part["backbone"].blocks]


def run(config):
    with Run.open(Path(config.out), config, command="train") as opened:
        return train(config, opened.folder, opened.facts)


def probes(monkeypatch, backend):
    """Let the probe of a device take one back end; returns how often it was asked."""
    asked = []

    def choose(name, problem):
        asked.append(name)
        chosen = backend if name == "auto" else name
        return AttentionChoice(backend=chosen, reason=f"took {len(asked)} ms")

    monkeypatch.setattr(attention, "choose_attention", choose)
    return asked


def test_the_problem_is_that_of_the_students_blocks(tiny):
    result = attention_problem(tiny("model.registers=4", "model.drop_path=0.4"), CPU)
    # 4 images: 8 global crops of 4 x 4 patches, 8 local ones of 2 x 2; 4 of 8 run at a rate of 0.4.
    assert result.shapes == ((4, 1 + 4 + 16), (4, 1 + 4 + 4))
    assert (result.heads, result.channels) == (2, 8)
    assert result.dtype == torch.float32
    assert attention_problem(tiny("precision=bfloat16"), CPU).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("packing", "device", "packed"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("packed", "cpu", True),
        ("separate", "cuda", False),
    ],
)
def test_crops_are_packed_on_a_gpu_or_where_the_recipe_requests_it(tiny, packing, device, packed):
    config = tiny(f"model.packing={packing}")
    assert attention_problem(config, torch.device(device)).packed == packed


def test_student_and_teacher_get_what_was_chosen(tiny):
    method = build_method(tiny("model.packing=packed"))
    assert {block.attn.backend for block in blocks(method)} == {"plain"}
    assert method.packed
    method = build_method(tiny("model.attention=sdpa"))
    assert {block.attn.backend for block in blocks(method)} == {"sdpa"}
    assert not method.packed


@pytest.mark.parametrize("backend", ["varlen", "xformers"])
def test_a_back_end_of_gpus_is_refused_on_a_cpu(tiny, backend):
    with pytest.raises(UsageError, match=f"- model.attention={backend} - .*model.attention=auto"):
        choose_setting(tiny(f"model.attention={backend}"), CPU)


def test_an_unknown_back_end_is_refused_when_the_recipe_is_read(tiny):
    with pytest.raises(UsageError) as caught:
        tiny("model.attention=fast")
    assert f"`model.attention` got 'fast', need auto | {' | '.join(BACKENDS)}" in str(caught.value)


def test_the_choice_is_said_and_recorded(tiny, caplog):
    config = tiny("steps=1")
    with caplog.at_level(logging.INFO):
        run(config)
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("attention:")]
    assert said == [
        "attention: plain (rule for CPUs: at most 17 tokens, heads of 8, float32); "
        "crops: one size after the other"
    ]
    facts = json.loads((Path(config.out) / "run.json").read_text())["attention"]
    assert facts["backend"] == "plain"
    assert facts["packed"] is False
    assert "17 tokens" in facts["reason"]
    kept = json.loads((Path(config.out) / "attention.json").read_text())
    assert kept == {"backend": "plain", "packed": False, "device": "cpu"}


def test_a_run_goes_on_with_what_it_began_with(tiny, tmp_path, monkeypatch, caplog):
    asked = probes(monkeypatch, "sdpa")
    first = settle_attention(tiny(), CPU, tmp_path)
    remember(first, tmp_path)
    asked = probes(monkeypatch, "plain")  # measured on another day
    with caplog.at_level(logging.INFO):
        again = settle_attention(tiny(), CPU, tmp_path)
    assert again.backend == "sdpa"
    assert "auto" not in asked
    assert "attention: sdpa (from this run's first start)" in caplog.text
    assert settle_attention(tiny(), CPU, tmp_path / "another").backend == "plain"


def test_what_the_recipe_states_comes_before_what_the_run_began_with(tiny, tmp_path):
    remember(settle_attention(tiny(), CPU, tmp_path), tmp_path)
    changed = tiny("model.attention=sdpa", "model.packing=packed")
    assert settle_attention(changed, CPU, tmp_path).backend == "sdpa"
    assert settle_attention(tiny("model.packing=packed"), CPU, tmp_path).packed


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ('{"backend": "sdpa", "packed": true, "device": "NVIDIA H100"}', "started on NVIDIA H100"),
        ('{"backend": "varlen", "packed": true, "device": "cpu"}', "CUDA devices only"),
        ('{"backend": "sdpa", "pac', "unavailable"),
        ('{"backend": "sdpa", "other": 1}', "unavailable"),
    ],
    ids=["another device", "cannot run here", "damaged", "of another version"],
)
def test_what_cannot_be_kept_is_chosen_anew_and_said(tiny, tmp_path, caplog, text, reported):
    (tmp_path / "attention.json").write_text(text)
    assert settle_attention(tiny(), CPU, tmp_path).backend == "plain"
    assert reported in caplog.text


def test_steps_after_a_resume_use_the_back_end_of_those_before(tiny, monkeypatch):
    """N + N steps equal 2N steps bit for bit, although the probe would choose another one now."""
    states = []
    for out, later in (("whole", "sdpa"), ("resumed", "plain")):
        config = tiny(out=out)
        with monkeypatch.context() as patch:
            probes(patch, "sdpa")
            trainer = Trainer(config, Path(config.out))
            for batch, waited in trainer.batches():
                if trainer.step == 3:
                    trainer.save()
                    trainer.checkpoints.finish()
                    probes(patch, later)
                    break
                trainer.run_step(batch, waited)
            if out == "resumed":
                trainer = Trainer(config, Path(config.out))
            assert trainer.step == 3
            for batch, waited in trainer.batches():
                trainer.run_step(batch, waited)
        states.append(trainer.method.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    # The two back ends do differ, or this would prove nothing.
    other = tiny("model.attention=plain", out="other")
    trainer = Trainer(other, Path(other.out))
    for batch, waited in trainer.batches():
        trainer.run_step(batch, waited)
    result = trainer.method.state_dict()
    assert not all(torch.equal(tensor, result[name]) for name, tensor in states[0].items())


def test_all_ranks_take_the_choice_of_the_first(tmp_path):
    """Two processes that would measure different things."""
    script = """
        import sys, pathlib, torch, torch.distributed as dist
        from dinoforge.training import attention
        from dinoforge.training.config import TrainingConfig
        from dinoforge.models.attention_choice import AttentionChoice

        rank, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
        dist.init_process_group(
            "gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2
        )
        own = ("sdpa", "plain")[rank]
        attention.choose_attention = lambda name, problem: AttentionChoice(backend=own, reason="x")
        config, cpu = TrainingConfig(out=str(folder)), torch.device("cpu")
        setting = attention.settle_attention(config, cpu, folder)
        attention.remember(setting, folder / str(rank))
        print(setting.backend, attention.attention_problem(config, cpu).shapes)
        dist.destroy_process_group()
    """
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ranks = [
        subprocess.Popen(
            [*command, rank, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    reported = [process.communicate(timeout=100)[0].strip() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert reported == ["sdpa ((64, 257), (256, 50))"] * 2  # half of the 64 images each
    assert [(tmp_path / rank / "attention.json").exists() for rank in ("0", "1")] == [True, False]
