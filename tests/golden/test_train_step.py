"""Whole training steps against the published code: targets, losses, gradients, AdamW, EMA.

Four runs: (a) Sinkhorn, separate heads, (b) centering, shared head, layer-wise decay, three steps,
(c) registers, SwiGLU, antialiased positions, (d) stochastic depth with recorded permutations.
"""

import json
import re
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file

from dinoforge.models.config import VitConfig
from dinoforge.models.layers import BlockRows, kept_samples
from dinoforge.models.vit import VisionTransformer
from dinoforge.training.data.masks import collate_masks
from dinoforge.training.heads import ProjectionHead
from dinoforge.training.methods.dino import Dino
from dinoforge.training.methods.method import Views
from dinoforge.training.parameter_groups import optimizer_groups
from dinoforge.training.updates import clip_gradients, update_teacher

pytestmark = pytest.mark.golden

RUNS = [
    "a_sinkhorn_separate_heads",
    "b_centering_shared_head",
    "c_registers_swiglu",
    "d_stochastic_depth",
]
# golden/README: float64 differs by rounding order only; float32 by what two float32 runs differ.
TOLERANCE = {
    torch.float64: {
        "scores": 1e-11,
        "sinkhorn": 1e-12,
        "centering": 1e-12,
        "center": 1e-13,
        "loss": 1e-11,
        "gradient": 1e-11,
        "norm": 1e-10,
        "student": 1e-10,
        "teacher": 1e-11,
    },
    torch.float32: {
        "scores": 2e-5,
        "sinkhorn": 2e-6,
        "centering": 5e-6,
        "center": 2e-7,
        "loss": 1e-5,
        "gradient": 3e-5,
        "norm": 1e-4,
        "student": 1e-6,
        "teacher": 3e-5,
    },
}
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)


def plain(name: str) -> str:
    return re.sub(r"blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)


def head(spec: dict, width: int) -> ProjectionHead:
    return ProjectionHead(
        width,
        hidden=spec["head_hidden_dim"],
        bottleneck=spec["head_bottleneck_dim"],
        prototypes=spec["head_n_prototypes"],
        layers=spec["head_nlayers"],
    )


def build(config: dict, tensors: dict, dtype: torch.dtype) -> Dino:
    student = config["student"]
    antialias = "_antialias" if student["interpolate_antialias"] else ""
    backbone = VisionTransformer(
        VitConfig(
            width=config["embed_dim"],
            depth=config["depth"],
            heads=config["num_heads"],
            patch_size=config["patch_size"],
            ffn="swiglu" if "swiglu" in student["ffn_layer"] else "mlp",
            registers=student["num_register_tokens"],
            layer_scale=student["layerscale"],
            image_size=config["global_crops_size"],
            positions=("offset" if student["interpolate_offset"] else "size") + antialias,
        )
    )
    dino, ibot = config["dino"], config["ibot"]
    method = Dino(
        backbone,
        head(dino, config["embed_dim"]),
        head(ibot, config["embed_dim"]) if ibot["separate_head"] else None,
        balance="sinkhorn" if config["centering"] == "sinkhorn_knopp" else "centering",
        weights=(dino["loss_weight"], ibot["loss_weight"], dino["koleo_loss_weight"]),
    )
    for part in ("student", "teacher"):
        getattr(method, part).load_state_dict(stored(tensors, f"init/{part}/"))
    return method.to(dtype).train()


def views(tensors: dict, step: int, dtype: torch.dtype) -> Views:
    at = f"step{step}/in/"
    masks = collate_masks(tensors[at + "masks"].numpy())
    assert torch.equal(torch.from_numpy(masks.indices_M), tensors[at + "mask_indices_list"])
    assert torch.equal(torch.from_numpy(masks.weights_M), tensors[at + "masks_weight"])
    return Views(
        tensors[at + "global_q8"].to(dtype) / 32,
        tensors[at + "local_q8"].to(dtype) / 32,
        tensors[at + "masks"],
        tensors[at + "mask_indices_list"],
        _exact_weights(tensors[at + "masks"], dtype),
    )


def _exact_weights(masks, dtype: torch.dtype):
    """1 / masked patches; the stored float32 weights cost 2e-8 of the float64 gradients."""
    counts = masks.sum(dim=1, keepdim=True).clamp(min=1).to(dtype)
    return (1 / counts).expand(masks.shape)[masks]


def stored(tensors: dict, prefix: str) -> dict:
    return {
        plain(name.removeprefix(prefix)): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def largest(result: dict, wanted: dict, where: dict | None = None) -> float:
    assert result.keys() == wanted.keys()
    worst = 0.0
    for name, value in wanted.items():
        difference = (result[name].detach().double() - value).abs()
        if where is not None:
            difference = difference[where[name].abs() > 1e-5]
        if difference.numel():
            worst = max(worst, difference.max().item())
    return worst


@dataclass
class Golden:
    """One stored run and our method with its initial weights."""

    config: dict
    tensors: dict
    method: Dino
    dtype: torch.dtype

    def __post_init__(self):
        names = (n for n in self.tensors if n.startswith("drop_path_permutation/"))
        self.order = iter(sorted(names))
        self.limits = TOLERANCE[self.dtype]
        self.optimizer = torch.optim.AdamW(
            optimizer_groups(
                self.method.student,
                depth=self.config["depth"],
                layerwise_decay=self.config["layerwise_decay"],
                patch_embed_lr=self.config["patch_embed_lr_mult"],
            ),
            betas=(self.config["adamw"]["beta1"], self.config["adamw"]["beta2"]),
            eps=self.config["adamw"]["eps"],
        )

    def forward(self, step: int, hyper: dict):
        inputs = views(self.tensors, step, self.dtype)
        (targets,) = self.method.targets([inputs], hyper["teacher_temp"])
        rate = self.config["student"]["drop_path_rate"]
        if not rate:
            return self.method(inputs, targets)
        kept = [kept_samples(len(x), rate) for x in (inputs.global_crops, inputs.local_crops)]

        def branch():
            return [self.tensors[next(self.order)][:count] for count in kept]

        rows = [BlockRows(branch(), branch()) for _ in range(self.config["depth"])]
        return self.method(replace(inputs, rows=rows), targets)

    def set_rates(self, hyper: dict) -> None:
        for group in self.optimizer.param_groups:
            lr = hyper["last_layer_lr"] if group["is_last_layer"] else hyper["lr"]
            group["lr"] = lr * group["lr_multiplier"]
            group["weight_decay"] = hyper["wd"] * group["weight_decay_multiplier"]

    def parameters(self, part: str) -> dict:
        return dict(getattr(self.method, part).named_parameters())

    def check_centers(self, prefix: str, suffix: str = "") -> None:
        for name in ("dino", "ibot"):
            key = f"{prefix}{name}_center{suffix}"
            if self.config["centering"] == "centering":
                result = getattr(self.method, f"{name}_center").center
                error = (result.double() - self.tensors[key].view(1, -1)).abs().max()
                assert error <= self.limits["center"], key

    def check_losses(self, result, norms: dict, step: int) -> None:
        wanted = self.config["losses_per_step"][step]
        got = {
            "dino_local_crops_loss": result.terms["dino_local"],
            "dino_global_crops_loss": result.terms["dino_global"],
            "koleo_loss": self.config["dino"]["koleo_loss_weight"] * result.terms["koleo"] / 2,
            "ibot_loss": result.terms["ibot"] / 2,
            "total_backpropagated": result.total,
        }
        assert wanted.keys() == {*got, "grad_norm_before_clip"}
        for name, value in got.items():
            assert value.item() == pytest.approx(wanted[name], abs=self.limits["loss"]), name
        wanted_norms = wanted["grad_norm_before_clip"]
        assert norms.keys() == wanted_norms.keys()
        for name, norm in wanted_norms.items():
            assert norms[name].item() == pytest.approx(norm, abs=self.limits["norm"]), name


def open_golden(golden_file, name: str, dtype: torch.dtype) -> Golden:
    tensors = load_file(golden_file(f"train_step/{name}.safetensors"))
    config = json.loads(golden_file("train_step/train_step.json").read_text())[name]
    return Golden(config, tensors, build(config, tensors, dtype), dtype)


@DTYPES
@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
@pytest.mark.parametrize("name", RUNS)
def test_training_steps_are_the_published_ones(golden_file, name, packed, dtype):
    golden = open_golden(golden_file, name, dtype)
    golden.method.packed = packed
    tensors, limits = golden.tensors, golden.limits
    hyper_steps = golden.config["hyper_per_step"]
    for step, hyper in enumerate(hyper_steps):
        golden.set_rates(hyper)
        golden.check_centers(f"step{step}/")
        golden.optimizer.zero_grad()
        result = golden.forward(step, hyper)
        result.total.backward()
        gradients = {n: p.grad for n, p in golden.parameters("student").items()}
        wanted_gradients = stored(tensors, "step0/grad/")
        if step == 0:
            assert largest(gradients, wanted_gradients) <= limits["gradient"]
        norms = clip_gradients(golden.method.student, hyper["clip"] or 0.0)
        golden.check_losses(result, norms, step)
        golden.optimizer.step()
        if step == 0:
            after = stored(tensors, "step0/student_after/")
            worst = largest(golden.parameters("student"), after, where=wanted_gradients)
            assert worst <= limits["student"]
            if dtype == torch.float64:  # in float32 tiny gradients are noise, see the README
                assert largest(golden.parameters("student"), after) <= limits["student"]
        update_teacher(golden.method.teacher, golden.method.student, hyper["momentum"])
    wanted = stored(tensors, f"step{len(hyper_steps) - 1}/teacher_after/")
    assert largest(golden.parameters("teacher"), wanted) <= limits["teacher"]
    golden.check_centers("", "_after_last")
    assert next(golden.order, None) is None, "not every recorded permutation was drawn"


@DTYPES
@pytest.mark.parametrize("name", RUNS)
def test_scores_and_targets_of_the_teacher(golden_file, name, dtype):
    golden = open_golden(golden_file, name, dtype)
    method, tensors, limits = golden.method, golden.tensors, golden.limits
    inputs = views(tensors, 0, dtype)
    temperature = golden.config["hyper_per_step"][0]["teacher_temp"]
    seen = {}
    for kind, network in (("dino", "dino_head"), ("ibot", "ibot_head")):
        if network in method.teacher:
            method.teacher[network].register_forward_hook(
                lambda _module, _inputs, out, kind=kind: seen.setdefault(kind, []).append(out)
            )
    (targets,) = method.targets([inputs], temperature)
    (first,) = seen["dino"]
    count = len(inputs.global_crops)  # a shared head scores class tokens and patches in one call
    scores = {"dino": first[:count], "ibot": seen.get("ibot", [first[count:]])[0]}
    probabilities = {"dino": targets.cls_BK, "ibot": targets.patch_MK}
    for kind in ("dino", "ibot"):
        for what, result, limit in (
            ("logits", scores[kind], limits["scores"]),
            ("probs", probabilities[kind], limits[method.balance]),
        ):
            # Class tokens are stored with crop 2 first.
            rows = torch.cat(result.chunk(2)[::-1]) if kind == "dino" else result
            wanted = tensors[f"step0/{kind}_teacher_{what}"]
            assert (rows.double() - wanted).abs().max() <= limit, (kind, what)


@pytest.mark.parametrize("name", RUNS)
def test_the_optimizer_has_the_published_groups(golden_file, name):
    golden = open_golden(golden_file, name, torch.float32)
    names = {id(p): n for n, p in golden.parameters("student").items()}
    result = {
        names[id(p)]: (g["lr_multiplier"], g["weight_decay_multiplier"], g["is_last_layer"])
        for g in golden.optimizer.param_groups
        for p in g["params"]
    }
    wanted = {
        plain(p): (g["lr_multiplier"], g["wd_multiplier"], g["is_last_layer"])
        for g in golden.config["param_groups"]
        for p in g["params"]
    }
    assert result.keys() == wanted.keys()
    for parameter, multipliers in wanted.items():
        assert result[parameter] == pytest.approx(multipliers, rel=1e-14), parameter


@pytest.mark.parametrize("name", ["a_sinkhorn_separate_heads", "b_centering_shared_head"])
def test_bfloat16_is_about_as_near_to_float64_as_the_published_float16_run(golden_file, name):
    """The published run in half precision (``precision_fp16_trace.json``) is off by up to 6e-4.

    Bfloat16 has 8 bits instead of 11: eight times that; which way each product is rounded depends
    on the machine's kernels: twice that again (seen: 5.6e-3). The float64 column is ours.
    """
    trace = json.loads(golden_file("precision_fp16_trace.json").read_text())
    published = trace["losses_float16_vs_float64"][name]
    golden = open_golden(golden_file, name, torch.float32)
    hyper = golden.config["hyper_per_step"][0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = golden.forward(0, hyper)
    exact = open_golden(golden_file, name, torch.float64).forward(0, hyper)
    weight = golden.config["dino"]["koleo_loss_weight"]
    for key, actual in {
        "dino_local_crops_loss": lambda losses: losses.terms["dino_local"],
        "dino_global_crops_loss": lambda losses: losses.terms["dino_global"],
        "koleo_loss": lambda losses: weight * losses.terms["koleo"] / 2,
        "ibot_loss": lambda losses: losses.terms["ibot"] / 2,
    }.items():
        its_half, its_exact = published[key]
        assert actual(exact).item() == pytest.approx(its_exact, abs=1e-6), key
        its_error = max(abs(its_half - its_exact), 6e-4)
        assert actual(half).dtype == torch.float32
        assert abs(actual(half).item() - its_exact) <= 16 * its_error, key
