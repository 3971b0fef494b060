"""Losses and targets against the published modules: values, gradients, centers, two ranks.

Limits are those of the reference's README, for float64 and float32.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinoforge.training.losses.balance import Center, sinkhorn_knopp
from dinoforge.training.losses.cross_entropy import dino_loss, ibot_loss
from dinoforge.training.losses.koleo import koleo_loss

pytestmark = pytest.mark.golden

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)
PROBABILITIES = {
    "sinkhorn_knopp": {torch.float64: 1e-12, torch.float32: 2e-6},
    "centering": {torch.float64: 1e-12, torch.float32: 5e-6},
}
CENTER = {torch.float64: 1e-13, torch.float32: 2e-7}
LOSS = {torch.float64: 1e-12, torch.float32: 2e-6}  # relative
GRADIENT = {torch.float64: 1e-12, torch.float32: 5e-6}
MODES = ("sinkhorn_knopp", "centering")


def largest(result, truth):
    assert result.shape == truth.shape
    return (result.detach().double() - truth).abs().max().item()


@pytest.fixture(scope="module")
def facts(golden_file):
    return json.loads(golden_file("head_loss.json").read_text())


def balanced(mode, center, scores, temperature):
    if mode == "sinkhorn_knopp":
        return sinkhorn_knopp(scores, temperature)
    result = center.targets(scores, temperature)
    center.update(scores)
    return result


@DTYPES
@pytest.mark.parametrize("mode", MODES)
def test_dino_over_four_steps(golden_file, facts, mode, dtype):
    facts = facts["loss/dino_cls"]
    tensors = load_file(golden_file("loss/dino_cls.safetensors"))
    center = Center(facts["prototypes"], momentum=facts["center_momentum"]).to(dtype)
    terms = 2 + 2 * facts["n_local_crops"]
    for step, temperature in enumerate(facts["teacher_temps"]):
        if mode == "centering":
            used = tensors[f"{mode}/center_used/step{step}"]
            assert largest(center.center, used) <= CENTER[dtype]
        scores = tensors[f"teacher_logits/step{step}"].to(dtype)
        targets = balanced(mode, center, scores, temperature)
        truth = tensors[f"{mode}/teacher_probs/step{step}"]
        assert largest(targets, truth) <= PROBABILITIES[mode][dtype]
        student = [
            tensors[f"student_{name}"].to(dtype, copy=True).requires_grad_()
            for name in ("global", "local")
        ]
        # Stored row i belongs to student row i; ours takes the teacher's crops in their own order.
        own_order = torch.cat(targets.chunk(2)[::-1])
        local, pair = dino_loss(own_order, *student, temperature=facts["student_temp"])
        result = {"local": terms * local, "global": terms / 2 * pair}
        for name, loss in result.items():
            truth = tensors[f"{mode}/loss_{name}/step{step}"].item()
            assert loss.item() == pytest.approx(truth, rel=LOSS[dtype]), name
        sum(result.values()).backward()
        for name, scores in zip(("global", "local"), student, strict=True):
            key = f"{mode}/grad_{name}/step{step}"
            if key in tensors:
                assert largest(scores.grad, tensors[key]) <= GRADIENT[dtype], key
    if mode == "centering":
        assert largest(center.center, tensors[f"{mode}/center_final"]) <= CENTER[dtype]


@DTYPES
@pytest.mark.parametrize("mode", MODES)
def test_ibot_over_three_steps(golden_file, facts, mode, dtype):
    facts = facts["loss/ibot_patch"]
    tensors = load_file(golden_file("loss/ibot_patch.safetensors"))
    center = Center(facts["prototypes"], mean_of_ranks=True).to(dtype)
    weights = tensors["masks_weight"].to(dtype)
    for step, temperature in enumerate(facts["teacher_temps"]):
        if mode == "centering":
            used = tensors[f"{mode}/center_used/step{step}"][0]
            assert largest(center.center, used) <= CENTER[dtype]
        scores = tensors[f"teacher_logits/step{step}"].to(dtype)
        targets = balanced(mode, center, scores, temperature)
        truth = tensors[f"{mode}/teacher_probs/step{step}"]
        assert largest(targets, truth) <= PROBABILITIES[mode][dtype]
        student = tensors["student_logits"].to(dtype, copy=True).requires_grad_()
        loss = ibot_loss(targets, student, weights, facts["images"])
        truth = tensors[f"{mode}/loss/step{step}"].item()
        assert loss.item() == pytest.approx(truth, rel=LOSS[dtype])
        loss.backward()
        key = f"{mode}/grad/step{step}"
        if key in tensors:
            assert largest(student.grad, tensors[key]) <= GRADIENT[dtype]
    if mode == "centering":
        assert largest(center.center, tensors[f"{mode}/center_final"][0]) <= CENTER[dtype]


@DTYPES
def test_ibot_is_the_mean_over_images_of_the_mean_over_their_masked_patches(golden_file, dtype):
    tensors = load_file(golden_file("loss/ibot_patch.safetensors"))
    masks = tensors["masks"]
    counts = masks.sum(dim=1, keepdim=True).clamp(min=1)
    loss = ibot_loss(
        tensors["dense/teacher_probs"].to(dtype)[masks],
        tensors["dense/student_logits"].to(dtype)[masks],
        (1 / counts.to(dtype)).expand(masks.shape)[masks],
        len(masks),
    )
    assert loss.item() == pytest.approx(tensors["dense/loss"].item(), rel=LOSS[dtype])


@DTYPES
@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_sinkhorn_corner_cases(golden_file, facts, iterations, dtype):
    tensors = load_file(golden_file("loss/sinkhorn.safetensors"))
    for name, case in facts["loss/sinkhorn"]["cases"].items():
        scores = tensors[f"{name}/logits"].to(dtype)
        result = sinkhorn_knopp(scores, case["teacher_temp"], iterations=iterations)
        truth = tensors[f"{name}/probs_iter{iterations}"]
        assert largest(result, truth) <= PROBABILITIES["sinkhorn_knopp"][dtype], name


@DTYPES
@pytest.mark.parametrize(
    "name", ["random", "pair", "clustered", "duplicates", "colinear", "zero_vector"]
)
def test_koleo_and_its_gradient(golden_file, name, dtype):
    tensors = load_file(golden_file("loss/koleo.safetensors"))
    x = tensors[f"{name}/x"].to(dtype, copy=True).requires_grad_()
    loss = koleo_loss(x)
    loss.backward()
    value, gradient = tensors[f"{name}/loss"].item(), tensors[f"{name}/grad"]
    error = largest(x.grad, gradient) / gradient.abs().max().item()
    if name in ("random", "pair", "clustered"):
        assert loss.item() == pytest.approx(value, abs=LOSS[dtype])
        assert error <= {torch.float64: 1e-11, torch.float32: 5e-5}[dtype]
    elif dtype == torch.float64:
        assert loss.item() == pytest.approx(value, abs=1e-12 if name == "duplicates" else 1e-7)
        assert error <= 1e-7
    else:  # ill-conditioned: the reference itself is off by up to 44 % in float32
        assert torch.isfinite(loss)
        assert torch.isfinite(x.grad).all()
        if name == "duplicates":
            assert loss.item() == pytest.approx(value, abs=LOSS[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_koleo_of_half_precision_is_computed_in_float32(golden_file, facts, dtype):
    """In float16 the published code gives infinity for duplicates and nan for a zero vector."""
    tensors = load_file(golden_file("loss/koleo.safetensors"))
    published = facts["loss/koleo"]["values"]
    for name in ("duplicates", "zero_vector"):
        assert published[name]["float16_inputs"] in ("inf", "nan")
        x = tensors[f"{name}/x"].to(dtype).requires_grad_()
        loss = koleo_loss(x)
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        # The gradient at a zero vector is 7e6: right, and more than float16 can hold.
        if name == "duplicates" or dtype == torch.bfloat16:
            assert torch.isfinite(x.grad).all()
        exact = koleo_loss(x.detach().float())
        assert loss.item() == exact.item()


@pytest.fixture(scope="module")
def ranks(golden_file, tmp_path_factory):
    """Start two processes that talk through gloo; what each found, by dtype."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("rank_of_losses.py")
    root = str(script.parents[2])
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": root,
    }
    golden = str(golden_file("loss/multi_rank.safetensors"))
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), "2", str(folder), golden], env=environment
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    return {
        dtype: [load_file(folder / f"rank{rank}-{name}.safetensors") for rank in (0, 1)]
        for dtype, name in ((torch.float64, "float64"), (torch.float32, "float32"))
    }


@DTYPES
def test_two_ranks_give_the_published_targets_and_centers(golden_file, ranks, dtype):
    tensors = load_file(golden_file("loss/multi_rank.safetensors"))
    results = [name for name in tensors if name.startswith(("sinkhorn/", "centering/"))]
    assert len(results) == 18
    for name in results:
        owners = [1] if name.endswith("rank1") else [0] if name.endswith("rank0") else [0, 1]
        for rank in owners:
            result = ranks[dtype][rank][name]
            if "center_final" in name:
                assert largest(result, tensors[name].view(1, -1)) <= CENTER[dtype], name
            else:
                mode = "sinkhorn_knopp" if name.startswith("sinkhorn") else "centering"
                assert largest(result, tensors[name]) <= PROBABILITIES[mode][dtype], name


@pytest.mark.parametrize("kind", ["cls", "patch"])
def test_sinkhorn_on_two_ranks_is_that_of_all_samples_on_one(golden_file, ranks, kind):
    tensors = load_file(golden_file("loss/multi_rank.safetensors"))
    for step in (0, 1):
        whole = torch.cat([tensors[f"{kind}_logits/step{step}/rank{rank}"] for rank in (0, 1)])
        result = torch.cat(
            [
                ranks[torch.float64][rank][f"sinkhorn/{kind}_probs/step{step}/rank{rank}"]
                for rank in (0, 1)
            ]
        )
        assert largest(sinkhorn_knopp(whole.double(), 0.05), result) <= 1e-14


def test_a_rank_without_masked_patches_joins_and_does_not_count(golden_file, ranks):
    scores = load_file(golden_file("loss/multi_rank.safetensors"))["patch_logits/step0/rank0"]
    first, second = ranks[torch.float64]
    assert largest(first["uneven/probs"], sinkhorn_knopp(scores.double(), 0.05)) <= 1e-14
    assert len(second["uneven/probs"]) == 0
    for result in (first, second):
        mean = scores.double().mean(dim=0, keepdim=True)
        assert largest(result["uneven/center"], 0.1 * mean) <= 1e-14
        assert torch.equal(result["uneven/center_of_nothing"], torch.ones(1, 24).double())


def test_the_patch_center_without_mean_of_ranks_is_the_mean_over_all_patches():
    scores = torch.randn(13, 24, generator=torch.Generator().manual_seed(0)).double()
    center = Center(24).double()
    center.update(scores)
    assert largest(center.center, 0.1 * scores.mean(dim=0, keepdim=True)) <= 1e-15
