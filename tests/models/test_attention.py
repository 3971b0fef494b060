"""Attention: every back end against one dense block-diagonal computation, in both directions.

`varlen` and `xformers` compute on GPUs only (`test_attention_gpu.py`). Here their kernels are
replaced by a dense one of the same signature: what is handed to them, and what is done with
their result, is ours.
"""

import sys
import types

import pytest
import torch

from dinoforge.models.attention import (
    BACKENDS,
    attend,
    block_diagonal_bias,
    sequence_lengths,
    token_counts,
)
from dinoforge.models.attention_choice import AGREEMENT, relative_difference
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit

LAYOUTS = {
    "one size": [(3, 7)],
    "two sizes": [(2, 9), (5, 4)],
    "three sizes": [(2, 9), (3, 1), (1, 6)],
    "no local crops": [(2, 9), (0, 4)],
    "no global crops": [(0, 9), (5, 4)],
    "nothing": [(0, 9), (0, 4)],
}
HEADS, CHANNELS = 2, 8
layouts = pytest.mark.parametrize("shapes", LAYOUTS.values(), ids=LAYOUTS.keys())


def draw(shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    size = (sum(token_counts(shapes)), 3, HEADS, CHANNELS)
    drawn = torch.randn(size, generator=generator, dtype=torch.float64)
    return drawn.to(dtype).requires_grad_()


def dense(q_THE, k_THE, v_THE, lengths):
    """One softmax over all tokens, with those of other sequences masked out."""
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths).long())
    scores_HTT = torch.einsum("the,she->hts", q_THE, k_THE) / q_THE.shape[-1] ** 0.5
    scores_HTT = scores_HTT.masked_fill(numbers[:, None] != numbers, -torch.inf)
    return torch.einsum("hts,she->the", scores_HTT.softmax(dim=-1), v_THE)


def both_directions(function, qkv):
    """Output, and gradient of the input under a fixed gradient of the output."""
    out = function(qkv)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    (gradient,) = torch.autograd.grad(out, qkv, cotangent)
    return [out.detach(), gradient]


def block_diagonal(qkv, shapes):
    return dense(*qkv.unbind(1), sequence_lengths(shapes))


@layouts
@pytest.mark.parametrize("backend", ["sdpa", "plain"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_back_ends_of_cpus_are_the_dense_block_diagonal(backend, shapes, dtype):
    qkv = draw(shapes, dtype)
    actual = both_directions(lambda x: attend(x, shapes, backend), qkv)
    expected = both_directions(lambda x: block_diagonal(x, shapes), draw(shapes))
    assert [x.dtype for x in actual] == [dtype, dtype]
    assert actual[0].shape == (sum(token_counts(shapes)), HEADS, CHANNELS)
    assert relative_difference(actual, expected) <= AGREEMENT[dtype]


@pytest.mark.parametrize("backend", ["sdpa", "plain"])
def test_bfloat16_stays_bfloat16_and_near(backend):
    shapes = LAYOUTS["two sizes"]
    actual = both_directions(lambda x: attend(x, shapes, backend), draw(shapes, torch.bfloat16))
    expected = both_directions(lambda x: block_diagonal(x, shapes), draw(shapes))
    assert actual[0].dtype == torch.bfloat16
    assert 1e-4 < relative_difference(actual, expected) <= AGREEMENT[torch.bfloat16]


def test_a_difference_that_is_no_number_is_none_that_agrees():
    one, nan = torch.ones(2), torch.tensor([1.0, torch.nan])
    assert relative_difference([one, one], [one, 2 * one]) == 0.5
    assert not relative_difference([nan, one], [one, one]) <= 1
    assert relative_difference([one[:0]], [one[:0]]) == 0


# The kernels of GPUs, replaced


@pytest.fixture
def replaced_varlen(monkeypatch):
    """Put a dense kernel in the place of `varlen_attn`; returns the calls."""
    from torch.nn.attention import varlen

    calls = []

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        calls.append((cu_seq_q, cu_seq_k, max_q, max_k))
        assert query.shape == key.shape == value.shape
        assert query.stride(-1) == 1, "flash attention wants contiguous channels"
        return dense(query.float(), key.float(), value.float(), cu_seq_q.diff().tolist()).to(
            query.dtype
        )

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    return calls


@pytest.fixture
def replaced_xformers(monkeypatch):
    """Put modules with a dense kernel in the place of xformers; returns the calls."""
    calls = []

    class BlockDiagonalMask:
        @classmethod
        def from_seqlens(cls, q_seqlen, *, device):
            mask = cls()
            mask.lengths, mask.device = list(q_seqlen), device
            return mask

    def kernel(query, key, value, attn_bias):
        calls.append(attn_bias)
        assert len(query) == 1, "a block-diagonal mask wants all sequences in one batch"
        return dense(query[0], key[0], value[0], attn_bias.lengths)[None]

    ops = types.SimpleNamespace(memory_efficient_attention=kernel)
    biases = types.SimpleNamespace(BlockDiagonalMask=BlockDiagonalMask)
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setitem(sys.modules, "xformers.ops.fmha", types.ModuleType("fmha"))
    monkeypatch.setitem(sys.modules, "xformers.ops.fmha.attn_bias", biases)
    block_diagonal_bias.cache_clear()
    yield calls
    block_diagonal_bias.cache_clear()


@layouts
def test_varlen_is_handed_all_sequences_in_one_call(replaced_varlen, shapes):
    qkv = draw(shapes, torch.bfloat16)
    actual = both_directions(lambda x: attend(x, shapes, "varlen"), qkv)
    expected = both_directions(lambda x: block_diagonal(x, shapes), draw(shapes))
    assert relative_difference(actual, expected) <= AGREEMENT[torch.bfloat16]
    lengths = sequence_lengths(shapes)
    assert len(replaced_varlen) == bool(lengths)  # the kernel refuses a batch of nothing
    for starts_q, starts_k, longest_q, longest_k in replaced_varlen:
        assert starts_q is starts_k
        assert starts_q.diff().tolist() == lengths
        assert longest_q == longest_k == max(lengths)


@layouts
def test_xformers_is_handed_all_sequences_in_one_call(replaced_xformers, shapes):
    actual = both_directions(lambda x: attend(x, shapes, "xformers"), draw(shapes))
    expected = both_directions(lambda x: block_diagonal(x, shapes), draw(shapes))
    assert relative_difference(actual, expected) <= AGREEMENT[torch.float64]
    lengths = sequence_lengths(shapes)
    assert [bias.lengths for bias in replaced_xformers] == [lengths] * bool(lengths)
    attend(draw(shapes), shapes, "xformers")
    assert len(set(map(id, replaced_xformers))) <= 1  # one mask for all layers


def test_varlen_casts_nothing_behind_the_back_of_float32():
    with pytest.raises(AssertionError, match="half precision"):
        attend(draw([(2, 3)], torch.float32), [(2, 3)], "varlen")


def test_under_autocast_a_model_hands_half_precision_to_varlen(replaced_varlen):
    model = build_vit(VitConfig(width=16, depth=2, heads=2, patch_size=7, image_size=28))
    images = [torch.randn(2, 3, 28, 28), torch.randn(3, 3, 14, 21)]
    outputs = {}
    for backend in ("sdpa", "varlen"):
        model.set_attention(backend)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model.forward_features_list(images, [None, None], packed=True)
        outputs[backend] = [x["x_prenorm"] for x in out]
    assert [x.dtype for x in outputs["varlen"]] == [torch.float32] * 2
    assert relative_difference(outputs["varlen"], outputs["sdpa"]) < AGREEMENT[torch.bfloat16]
    assert [longest for _, _, longest, _ in replaced_varlen] == [17, 17]


# Compiled


def trace(backend, dtype, shapes):
    """Trace attention for any device, without running a kernel."""

    class Attend(torch.nn.Module):
        def forward(self, qkv):
            return attend(qkv, shapes, backend)

    program = torch.export.export(Attend(), (draw(shapes, dtype).detach(),), strict=True)
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_varlen_traces_to_one_kernel_and_no_other_attention():
    called = trace("varlen", torch.bfloat16, LAYOUTS["two sizes"])
    assert sum("varlen_attn" in name for name in called) == 1
    assert not any("softmax" in name or "dot_product" in name for name in called)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "xformers"])
def test_the_number_of_kernels_does_not_grow_with_the_batch(backend):
    dtype = torch.bfloat16 if backend == "varlen" else torch.float32
    few, many = (trace(backend, dtype, [(n, 9), (4 * n, 4)]) for n in (2, 32))
    assert few == many
