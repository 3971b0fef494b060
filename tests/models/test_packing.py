"""Where sequences of several lengths begin, against a count by hand and a dense mask."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from dinoforge.models.attention import (
    block_diagonal_bias,
    cumulative_lengths,
    longest_sequence,
    sequence_lengths,
    token_counts,
)

CPU = torch.device("cpu")
SHAPES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), min_size=1, max_size=4)


def same_sequence(shapes):
    """Dense bool [T, T]: True where two tokens are of one sequence."""
    number = [n for n, length in enumerate(sequence_lengths(shapes)) for _ in range(length)]
    return torch.tensor([[a == b for b in number] for a in number], dtype=torch.bool)


def test_two_global_and_three_local_crops_counted_by_hand():
    shapes = [(2, 5), (3, 2)]
    assert token_counts(shapes) == [10, 6]
    assert sequence_lengths(shapes) == [5, 5, 2, 2, 2]
    assert longest_sequence(shapes) == 5
    assert cumulative_lengths(shapes, CPU).tolist() == [0, 5, 10, 12, 14, 16]


@pytest.mark.parametrize(
    ("shapes", "starts", "longest"),
    [
        ([(0, 5), (2, 3)], [0, 3, 6], 3),
        ([(2, 3), (0, 5)], [0, 3, 6], 3),
        ([(0, 5), (0, 3)], [0], 0),
    ],
)
def test_an_empty_batch_has_no_sequence(shapes, starts, longest):
    assert cumulative_lengths(shapes, CPU).tolist() == starts
    assert longest_sequence(shapes) == longest


@given(SHAPES)
def test_starts_are_the_running_sum_of_the_lengths(shapes):
    lengths = torch.tensor([0, *sequence_lengths(shapes)])
    starts = cumulative_lengths(shapes, CPU)
    assert starts.dtype == torch.int32
    assert starts.tolist() == lengths.cumsum(0).tolist()
    assert starts[-1] == sum(token_counts(shapes))


def test_starts_are_made_once_a_layout_and_device():
    first = cumulative_lengths([(2, 5), (3, 2)], CPU)
    assert cumulative_lengths(((2, 5), (3, 2)), CPU) is first
    assert cumulative_lengths([(2, 5), (4, 2)], CPU) is not first
    assert cumulative_lengths([(2, 5), (3, 2)], torch.device("meta")).device.type == "meta"


def test_starts_made_in_inference_mode_can_be_kept_for_a_backward_pass():
    shapes = [(7, 11), (13, 3)]  # of this test alone: else they could be there already
    with torch.inference_mode():
        starts = cumulative_lengths(shapes, CPU)
    assert not starts.is_inference()


def test_a_compiled_graph_computes_the_starts_itself():
    def starts(x):
        return cumulative_lengths([(len(x), 5), (3, 2)], x.device)

    compiled = torch.compile(starts, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(2)).tolist() == [0, 5, 10, 12, 14, 16]


@pytest.mark.parametrize("shapes", [((2, 5), (3, 2)), ((0, 5), (2, 3)), ((1, 4),)])
def test_the_bias_of_xformers_is_the_dense_mask(shapes):
    pytest.importorskip("xformers.ops.fmha.attn_bias", reason="xformers is not installed")
    bias = block_diagonal_bias(shapes, CPU)
    seen = same_sequence(shapes)
    dense = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    assert torch.equal(bias.materialize(tuple(seen.shape)), dense)
    assert block_diagonal_bias(shapes, CPU) is bias
