"""Crops of several sizes in one pass: packed and separate agree, and a block compiles whole.

Tolerance: 1e-6 of the largest value in float32. The linear layers sum over the same channels in
both; only the order may differ, because the kernels cut another number of rows differently.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from dinoforge.models.attention_choice import relative_difference
from dinoforge.models.config import VitConfig
from dinoforge.models.layers import BlockRows, kept_samples
from dinoforge.models.vit import build_vit

CPU = torch.device("cpu")

# torch's compiler looks at `.grad` of inner tensors, and silences its own warning by a way that
# does not reach warnings that are errors.
compiles = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def build(**changes):
    sizes = {"width": 48, "depth": 3, "heads": 3, "patch_size": 7, "image_size": 28}
    # LayerScale of 1: the released 1e-5 would hide the branches in which the two differ.
    return build_vit(VitConfig(**sizes | {"layer_scale": 1.0, "init": "xavier"} | changes), seed=1)


def crops(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 3, *side, generator=generator) for batch, side in sizes]


def masks_of(images):
    generator = torch.Generator().manual_seed(1)
    patches = [(len(x), (x.shape[2] // 7) * (x.shape[3] // 7)) for x in images]
    return [torch.rand(*size, generator=generator) < 0.4 for size in patches]


def drawn_rows(images, depth, rate):
    generator = torch.Generator().manual_seed(2)

    def branch():
        return [
            torch.randperm(len(x), generator=generator)[: kept_samples(len(x), rate)]
            for x in images
        ]

    return [BlockRows(branch(), branch()) for _ in range(depth)]


def run(model, images, masks, *, packed, drop_path=0.0):
    """Outputs of all crops, and the gradients of all parameters."""
    model.zero_grad()
    rows = drawn_rows(images, len(model.blocks), drop_path) if drop_path else None
    out = model.forward_features_list(images, masks, rows=rows, packed=packed)
    values = [x[name] for x in out for name in ("x_norm_clstoken", "x_norm_patchtokens")]
    sum((x.square() * torch.linspace(0.5, 1.5, x.shape[-1])).sum() for x in values).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [x.detach() for x in values], gradients


SQUARE = ((6, (28, 28)), (10, (14, 14)))
CASES = {
    "as in training": (SQUARE, {}, 0.0),
    "drop path": (SQUARE, {}, 0.4),
    "registers, SwiGLU": (SQUARE, {"registers": 4, "ffn": "swiglu"}, 0.3),
    "not square, three sizes": (((2, (28, 42)), (3, (14, 7)), (1, (21, 35))), {}, 0.4),
    "rotary positions": (((2, (28, 42)), (3, (14, 7)), (0, (7, 7))), {"positions": "rope"}, 0.4),
    "no local crops": (((6, (28, 28)), (0, (14, 14))), {}, 0.4),
    "no global crops": (((0, (28, 28)), (5, (14, 14))), {}, 0.4),
    "one image": (((2, (28, 28)), (8, (14, 14))), {"layer_scale": 0.0}, 0.4),
}


@pytest.mark.parametrize("backend", ["sdpa", "plain"])
@pytest.mark.parametrize(("sizes", "changes", "drop_path"), CASES.values(), ids=CASES.keys())
def test_packed_equals_separate_forward_and_backward(sizes, changes, drop_path, backend):
    model = build(**changes)
    model.set_attention(backend)
    images = crops(*sizes)
    masks = [*masks_of(images[:1]), *[None] * (len(images) - 1)]
    actual, expected = (
        run(model, images, masks, packed=packed, drop_path=drop_path) for packed in (True, False)
    )
    assert relative_difference(actual[0], expected[0]) <= 1e-6
    assert len(actual[1]) == len(expected[1]) > 30
    assert relative_difference(actual[1], expected[1]) <= 1e-6


def test_packed_runs_each_linear_layer_once():
    model = build()
    rows = []
    model.blocks[0].mlp.fc1.register_forward_hook(lambda _m, x, _o: rows.append(len(x[0])))
    for packed, expected in ((True, [6 * 17 + 10 * 5]), (False, [6 * 17, 10 * 5])):
        rows.clear()
        run(model, crops(*SQUARE), [None, None], packed=packed)
        assert rows == expected


# Stochastic depth


@pytest.mark.parametrize(
    ("batch", "rate", "kept"), [(10, 0.4, 6), (8, 0.4, 4), (1, 0.9, 1), (0, 0.4, 0), (5, 0.0, 5)]
)
def test_samples_that_a_branch_runs_on(batch, rate, kept):
    assert kept_samples(batch, rate) == kept


def test_recomputing_a_block_meets_the_same_subset():
    """Activation checkpointing runs a block again in the backward pass."""
    gradients = []
    for recompute in (False, True):
        model = build()
        if recompute:
            recompute_blocks(model)
        gradients.append(run(model, crops(*SQUARE), [None, None], packed=True, drop_path=0.4)[1])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def recompute_blocks(model):
    def recomputed(original):
        # Our function around `checkpoint`: the compiler skips a call that begins in torch.
        def forward(xs, rows=None, **options):
            return checkpoint(original, xs, rows, use_reentrant=False, **options)

        return forward

    for block in model.blocks:
        block.forward = recomputed(block.forward)


# Compiled


@compiles
@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
@pytest.mark.parametrize("drop_path", [0.0, 0.4])
@pytest.mark.parametrize("backend", ["sdpa", "plain"])
def test_a_block_compiles_without_a_graph_break_and_gives_the_same(packed, drop_path, backend):
    torch.compiler.reset()
    model = build()
    model.set_attention(backend)
    images = crops(*SQUARE)
    expected = run(model, images, [None, None], packed=packed, drop_path=drop_path)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    actual = run(model, images, [None, None], packed=packed, drop_path=drop_path)
    for one, other in zip(actual, expected, strict=True):
        assert relative_difference(one, other) <= 1e-6


@compiles
def test_a_recomputed_block_compiles_whole_too():
    torch.compiler.reset()
    model = build()
    expected = run(model, crops(*SQUARE), [None, None], packed=True, drop_path=0.4)
    recompute_blocks(model)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    actual = run(model, crops(*SQUARE), [None, None], packed=True, drop_path=0.4)
    for one, other in zip(actual, expected, strict=True):
        assert relative_difference(one, other) <= 1e-6


@compiles
def test_all_blocks_share_one_compiled_graph():
    torch.compiler.reset()
    counter = CompileCounter()
    model = build()
    for block in model.blocks:
        block.compile(backend=counter, fullgraph=True)
    for _ in range(2):
        run(model, crops(*SQUARE), [None, None], packed=True, drop_path=0.4)
    assert counter.frame_count == 1


@compiles
@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
def test_a_block_under_autocast_compiles_whole_too(packed):
    torch.compiler.reset()
    model = build()
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, _ = run(model, crops(*SQUARE), [None, None], packed=packed)
    assert all(torch.isfinite(value).all() for value in values)
