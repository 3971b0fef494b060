"""Which back end runs: by name, by the rule for CPUs, and by a probe that is run for real."""

import importlib.util

import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.models import attention_choice
from dinoforge.models.attention import BACKENDS, attend
from dinoforge.models.attention_choice import AttentionProblem, choose_attention, probe

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def problem(**changes):
    facts = {"heads": 2, "channels": 32, "dtype": torch.float32, "device": CPU}
    return AttentionProblem(**facts | {"shapes": ((4, 17), (8, 5))} | changes)


@pytest.mark.parametrize("name", ["sdpa", "plain"])
def test_the_one_that_is_asked_for_is_taken(name):
    choice = choose_attention(name, problem())
    assert (choice.backend, choice.reason) == (name, "set by the recipe")


def test_an_unknown_back_end_is_refused_with_the_known_ones():
    with pytest.raises(UsageError) as caught:
        choose_attention("flash", problem())
    assert str(caught.value) == (
        "unknown attention back end `flash` - model.attention - "
        "choose one of auto, sdpa, plain, varlen, xformers"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("xformers") is not None, reason="xformers is installed"
)
def test_xformers_that_is_missing_is_reported_with_the_command_that_installs_it():
    with pytest.raises(UsageError) as caught:
        choose_attention("xformers", problem(device=CUDA))
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        "xformers is not installed - model.attention=xformers - "
        'pip install "xformers>=0.0.35", or model.attention=auto'
    )


def test_varlen_on_a_cpu_is_refused():
    with pytest.raises(UsageError) as caught:
        choose_attention("varlen", problem(dtype=torch.bfloat16))
    assert str(caught.value) == (
        "varlen attention runs on CUDA devices only - model.attention=varlen - "
        "device=cuda, or model.attention=auto"
    )


def test_varlen_in_float32_is_refused():
    with pytest.raises(UsageError) as caught:
        choose_attention("varlen", problem(device=CUDA))
    assert str(caught.value) == (
        "varlen attention computes in half precision only - model.attention=varlen - "
        "precision=bfloat16, or model.attention=auto"
    )


# The rule for CPUs


@pytest.mark.parametrize(
    ("changes", "backend"),
    [
        ({}, "plain"),
        ({"channels": 64}, "sdpa"),
        ({"shapes": ((4, 33), (8, 5))}, "sdpa"),
        ({"shapes": ((4, 33), (8, 5)), "dtype": torch.bfloat16}, "plain"),
        ({"shapes": ((4, 64), (8, 5)), "dtype": torch.bfloat16, "channels": 64}, "plain"),
        ({"shapes": ((4, 65), (8, 5)), "dtype": torch.bfloat16}, "sdpa"),
        ({"shapes": ((4, 257), (8, 50)), "dtype": torch.bfloat16}, "sdpa"),
    ],
)
def test_short_sequences_on_a_cpu_are_computed_plainly(changes, backend):
    choice = choose_attention("auto", problem(**changes))
    assert choice.backend == backend
    assert "rule for CPUs" in choice.reason
    assert choice.milliseconds == {}


def test_the_choice_on_a_cpu_runs_nothing(monkeypatch):
    monkeypatch.setattr(attention_choice, "attend", None)
    assert choose_attention("auto", problem()).backend == "plain"


# The probe


def install(monkeypatch, **backends):
    """Add back ends of the test's own, here and where the probe calls them."""
    for name, function in backends.items():
        monkeypatch.setitem(BACKENDS, name, function)


def much_slower(function):
    """Make a back end do its work forty times."""

    def slow(qkv, shapes):
        for _ in range(40):
            out = function(qkv, shapes)
        return out

    return slow


@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_probe_times_every_back_end_that_agrees(packed, dtype):
    choice = probe(problem(dtype=dtype, packed=packed), ("sdpa", "plain"))
    assert choice.milliseconds.keys() == {"sdpa", "plain"}
    assert choice.refused == {}
    assert all(ms > 0 for ms in choice.milliseconds.values())
    assert f"sdpa {choice.milliseconds['sdpa']:.2f} ms" in choice.reason


def test_a_slower_back_end_is_not_taken(monkeypatch):
    install(monkeypatch, slow=much_slower(BACKENDS["sdpa"]))
    choice = probe(problem(), ("sdpa", "slow"))
    assert choice.backend == "sdpa"
    assert choice.milliseconds["slow"] > choice.milliseconds["sdpa"]


def test_a_faster_back_end_is_taken(monkeypatch):
    install(monkeypatch, quick=BACKENDS["sdpa"], sdpa=much_slower(BACKENDS["sdpa"]))
    assert probe(problem(), ("sdpa", "quick")).backend == "quick"


def test_a_back_end_that_is_hardly_faster_is_not_taken(monkeypatch):
    times = {"sdpa": 1.04, "plain": 1.0}
    monkeypatch.setattr(
        attention_choice._Trial, "milliseconds", lambda _self, names: {n: times[n] for n in names}
    )
    assert probe(problem(), ("sdpa", "plain")).backend == "sdpa"
    times["plain"] = 0.9
    assert probe(problem(), ("sdpa", "plain")).backend == "plain"


def test_a_back_end_that_fails_is_passed_over_with_the_reason(monkeypatch):
    def fails(qkv, shapes):
        raise RuntimeError("no kernel image is available\nand ten lines more")

    install(monkeypatch, broken=fails)
    choice = probe(problem(), ("sdpa", "broken"))
    assert choice.backend == "sdpa"
    assert choice.refused == {"broken": "no kernel image is available"}
    assert choice.reason.endswith("; not broken (no kernel image is available)")


def test_a_back_end_that_fails_backward_only_is_passed_over(monkeypatch):
    install(monkeypatch, forward_only=lambda qkv, shapes: attend(qkv, shapes, "sdpa").detach())
    choice = probe(problem(), ("sdpa", "forward_only"))
    assert "does not require grad" in choice.refused["forward_only"]


@pytest.mark.parametrize("wrong", [1.01, torch.nan], ids=["1 % off", "not a number"])
def test_a_back_end_that_gives_other_results_is_passed_over(monkeypatch, wrong):
    install(monkeypatch, wrong=lambda qkv, shapes: attend(qkv, shapes, "sdpa") * wrong)
    choice = probe(problem(), ("sdpa", "wrong"))
    assert choice.refused["wrong"].startswith("differs from sdpa by ")
    assert "wrong" not in choice.milliseconds


def test_back_ends_that_cannot_run_here_are_named_without_being_run():
    choice = probe(problem(dtype=torch.bfloat16), ("sdpa", "varlen"))
    assert choice.refused == {"varlen": "varlen attention runs on CUDA devices only"}


def test_a_probe_draws_from_no_generator_of_the_run():
    before = torch.get_rng_state()
    probe(problem(), ("sdpa", "plain"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_probe_works_inside_no_grad_and_autocast():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        choice = probe(problem(), ("sdpa", "plain"))
    assert choice.refused == {}
