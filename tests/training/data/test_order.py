"""Mixtures: shares kept at every step, on any rank, and each part passed through in its order."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.randomness import KeyedPermutation
from dinoforge.training.data.order import ImageOrder, Interleaving, StepOrder
from dinoforge.training.data.parts import PartConfig

STEPS = 10_000
BATCH = 42  # divides by 1, 2, 3 and 7 ranks

WEIGHTS = st.integers(1, 999).map(lambda n: Fraction(n, 1000))
STREAMS = st.lists(WEIGHTS, min_size=1, max_size=8)


def mixture(*parts, batch_size=BATCH, seed=0):
    """Make the order of parts (weight, images, homogeneous)."""
    configs = [
        PartConfig(name=f"part{n}", weight=weight, batches=kind)
        for n, (weight, _, kind) in enumerate(parts)
    ]
    sizes = [size for _, size, _ in parts]
    return ImageOrder(configs, sizes, batch_size=batch_size, seed=seed)


ALONE, MIXED = "homogeneous", "heterogeneous"
# As DINOv3: every tenth batch is of one part.
TENTH = [(0.1, 13, ALONE), (0.6, 101, MIXED), (0.25, 57, MIXED), (0.05, 7, MIXED)]


def off_from_share(counts, weights, total):
    share = np.array([float(weight / sum(weights)) for weight in weights])
    return np.abs(np.asarray(counts) - share * total).max()


@pytest.mark.parametrize(
    "parts",
    [
        TENTH,
        [(1, 5, ALONE), (2, 9, ALONE)],
        [(0.03, 5, ALONE), (0.07, 8, ALONE), (0.9, 9, MIXED)],
        [(3, 5, MIXED), (0, 8, MIXED), (1, 9, MIXED), (1, 30, ALONE)],
    ],
)
def test_every_part_has_its_share_to_one_batch_after_any_number_of_steps(parts):
    order = mixture(*parts)
    weights = [Fraction(str(weight)) for weight, *_ in parts]
    for steps in [*range(0, STEPS, 7), STEPS]:
        seen = [use.seen for use in order.uses(steps)]
        assert sum(seen) == steps * BATCH
        assert off_from_share(seen, weights, steps * BATCH) <= BATCH


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_ranks_of_a_step_show_what_the_counts_promise(ranks):
    order, size = mixture(*TENTH), BATCH // ranks
    for step in (0, 1, 9, 10, 777, STEPS - 1, 3_000_000_000):
        places = [order.locate(step, range(at, at + size)) for at in range(0, BATCH, size)]
        parts = np.concatenate([place.parts for place in places])
        before, after = order.uses(step), order.uses(step + 1)
        for part, (old, new) in enumerate(zip(before, after, strict=True)):
            assert np.count_nonzero(parts == part) == new.seen - old.seen
        whole = order.locate(step, range(BATCH))
        assert np.array_equal(np.concatenate([place.images for place in places]), whole.images)


def test_a_batch_is_of_one_homogeneous_part_or_of_all_others():
    order = mixture(*TENTH)
    batches = [set(order.locate(step, range(BATCH)).parts.tolist()) for step in range(200)]
    assert batches.count({0}) == 20
    assert all(parts in ({0}, {1, 2, 3}) for parts in batches)
    # Whatever the period of the metrics, it meets both kinds.
    assert len({step % 10 for step, parts in enumerate(batches) if parts == {0}}) > 5


def test_every_pass_over_a_part_shows_each_of_its_images_once_in_another_order():
    order = mixture(*TENTH)
    places = [order.locate(step, range(BATCH)) for step in range(60)]
    shown, last = {}, dict.fromkeys(range(4), 0)
    for place in (place for places_of in places for place in places_of.rows()):
        shown.setdefault((place.part, place.epoch), {})[place.position] = place.image
        last[place.part] = max(last[place.part], place.epoch)
    first = np.cumsum([0, *order.sizes])
    for (part, epoch), images in shown.items():
        wanted = set(range(first[part], first[part + 1]))
        assert len(set(images.values())) == len(images)
        if epoch < last[part]:
            assert set(images.values()) == wanted
        else:
            assert set(images.values()) <= wanted
    assert min(last.values()) >= 1
    orders = [[shown[1, epoch][at] for at in range(order.sizes[1])] for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_one_set_of_images_keeps_its_order_of_before():
    order = ImageOrder([PartConfig()], [10], batch_size=4, seed=3)
    for step in range(7):
        rows = step * 4 + np.arange(1, 3)
        wanted = [KeyedPermutation(10, 3, epoch=int(row // 10))[int(row % 10)] for row in rows]
        assert order.locate(step, range(1, 3)).images.tolist() == wanted


def test_the_replacement_of_an_image_is_the_next_of_its_part():
    order = mixture(*TENTH)
    for place in order.locate(3, range(BATCH)).rows():
        following = order.after(place)
        assert (following.part, following.epoch) == (place.part, place.epoch)
        assert following.position == (place.position + 1) % order.sizes[place.part]
        assert following.image != place.image
        first = sum(order.sizes[: place.part])
        assert first <= following.image < first + order.sizes[place.part]


@given(STREAMS, st.integers(0, 3), st.integers(0, 5000))
def test_steps_of_every_stream_are_numbered_and_keep_their_share(weights, seed, start):
    order = StepOrder(weights, seed)
    counts = order.counts(start)
    assert sum(counts) == start
    for step in range(start, start + 30):
        stream, earlier = order.locate(step)
        assert earlier == counts[stream]
        counts[stream] += 1
        assert off_from_share(counts, weights, step + 1) <= (1 if len(weights) <= 3 else 1.5)
    assert order.counts(step + 1) == counts


@given(STREAMS, st.integers(0, 1 << 40))
def test_positions_of_every_item_are_numbered_and_keep_their_share(weights, start):
    sequence = Interleaving(weights)
    counts = sequence.counts(start)
    items, earlier = sequence.locate(np.arange(start, start + 50))
    for item, number in zip(items.tolist(), earlier.tolist(), strict=True):
        assert number == counts[item]
        counts[item] += 1
    assert sequence.counts(start + 50) == counts
    rounding = start / (1 << 32)
    assert off_from_share(counts, weights, start + 50) <= 1.5 + 2 * rounding
