"""Dtypes of products, of gathered units and of sums of gradients, without a GPU."""

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

import dinoforge.training.precision
from dinoforge.training.distributed.parallel import precision_policies, shard_method
from dinoforge.training.plan.placement import fake_ranks, method_on_meta

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


@pytest.fixture(params=[True, False], ids=["bfloat16 GPU", "older GPU"])
def gpu_multiplies_bfloat16(request, monkeypatch):
    """What a GPU would answer; there need not be one."""
    monkeypatch.setattr(
        dinoforge.training.precision, "_multiplies_bfloat16_fast", lambda device: request.param
    )
    return request.param


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float32"])
def test_blocks_are_gathered_in_bfloat16_on_gpus_alone_and_reduced_in_float32(
    tiny, gpu_multiplies_bfloat16, precision
):
    config = tiny(f"precision={precision}")
    if gpu_multiplies_bfloat16 or precision != "bfloat16":
        halved = precision != "float32" and gpu_multiplies_bfloat16
        blocks, whole = precision_policies(config, CUDA)
        assert (blocks.param_dtype, blocks.reduce_dtype) == (BF16 if halved else None, F32)
        # Heads and what is outside the blocks keep float32 weights; their losses need them.
        assert (whole.param_dtype, whole.reduce_dtype) == (None, F32)
        assert (blocks.cast_forward_inputs, blocks.output_dtype) == (False, None)
        assert whole.output_dtype is None
    blocks, whole = precision_policies(config, CPU)
    assert (blocks.param_dtype, blocks.reduce_dtype) == (None, F32)
    assert (whole.param_dtype, whole.reduce_dtype) == (None, F32)


def test_a_proof_in_float64_is_reduced_in_float64(tiny):
    for policy in precision_policies(tiny("precision=float64"), CUDA):
        assert (policy.param_dtype, policy.reduce_dtype) == (None, F64)


@pytest.mark.parametrize("copy", [4, 2], ids=["fsdp", "hsdp"])
def test_every_unit_has_the_policy_of_its_part_and_float32_shards(tiny, copy):
    config = tiny("precision=bfloat16")
    method = method_on_meta(config)
    blocks, whole = precision_policies(config, CPU)
    with fake_ranks(4):
        shard_method(config, method, CPU, 4, copy)
        units = {
            name: module
            for name, module in method.named_modules()
            if isinstance(module, FSDPModule)
        }
        for name, unit in units.items():
            wanted = blocks if ".blocks." in name else whole
            assert unit._get_fsdp_state()._mp_policy == wanted, name
    parts = {"backbone", "backbone.blocks.0", "backbone.blocks.1", "dino_head", "ibot_head"}
    assert set(units) == {f"{who}.{part}" for who in ("student", "teacher") for part in parts}
    assert {parameter.dtype for parameter in method.parameters()} == {F32}
