"""Many images encoded by threads: the vectors of one thread, in order, and never far ahead."""

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from dinoforge.encoders.encoder import Fitting
from dinoforge.encoders.make import make_encoder
from dinoforge.encoders.network import Placement, Transform, stream_batches
from dinoforge.encoders.network_encoder import NetworkEncoder
from dinoforge.encoders.stream import (
    Rate,
    Work,
    add_rates,
    describe_rates,
    encode_images,
    map_ahead,
)
from dinoforge.errors import UsageError

PLAIN = Transform(side=8, mean=(0.5,) * 3, std=(0.25,) * 3)


def network(device="cpu"):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.GELU(), nn.Flatten(), nn.Linear(16 * 36, 24)]
    module = nn.Sequential(*layers).to(device).eval()
    return NetworkEncoder("small", module, PLAIN, weights="0", device=device)


class Named(Fitting):
    """Remembers which threads called it; the vector of an image is its mean."""

    dim = 1

    def __init__(self, *, on_threads):
        self.on_threads, self.threads = on_threads, set()

    def encode(self, images):
        self.threads.add(threading.get_ident())
        time.sleep(0.002)
        return np.array([[image.mean()] for image in images], np.float32).reshape(-1, 1)


def encoded(encoder, images, **settings):
    """The vectors of images, of which None does not decode, and the places of those that do."""
    parts = list(
        encode_images(
            Work.of(encoder), images, lambda one: [] if one is None else [one], **settings
        )
    )
    starts = np.cumsum([0, *(part.count for part in parts)])
    places = [start + at for start, p in zip(starts, parts, strict=False) for at in p.decoded]
    return np.concatenate([part.vectors for part in parts]), places


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("at_once", [4, 32])
@pytest.mark.parametrize("kind", ["network", "pixels", "on_threads", "alone"])
def test_vectors_do_not_depend_on_the_number_of_threads(pictures, kind, workers, at_once):
    encoders = {
        "network": network,
        "pixels": lambda: make_encoder("pixels"),
        "on_threads": lambda: Named(on_threads=True),
        "alone": lambda: Named(on_threads=False),
    }
    encoder = encoders[kind]()
    images = [*pictures, None, *pictures[::-1], None, None, *pictures] * 3
    rows, places = encoded(encoder, images, workers=workers, at_once=at_once)
    assert places == [place for place, image in enumerate(images) if image is not None]
    wanted = encoder.encode([image for image in images if image is not None])
    # Another place in a batch may change the last bits of `pixels` (see test_contract.py).
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-5 if kind == "pixels" else 0)
    again, _ = encoded(encoder, images, workers=0, at_once=at_once)
    assert np.array_equal(rows, again)


@pytest.mark.parametrize("on_threads", [True, False])
def test_only_what_threads_may_share_is_called_by_several(on_threads):
    encoder = Named(on_threads=on_threads)
    images = [np.full((4, 4, 3), value, np.uint8) for value in range(64)]
    rows, _ = encoded(encoder, images, workers=2, at_once=4)
    assert rows[:, 0].tolist() == [*range(64)]
    main = threading.get_ident()
    assert encoder.threads == {main} if not on_threads else main not in encoder.threads
    assert len(encoder.threads) == 1 + on_threads


def test_views_of_an_image_are_rows_that_follow_each_other():
    encoder = Named(on_threads=True)
    views = encode_images(
        Work.of(encoder),
        range(10),
        lambda value: [np.full((2, 2, 3), value * 3 + view, np.uint8) for view in range(3)],
        workers=2,
        at_once=4,
    )
    assert np.concatenate([part.vectors for part in views])[:, 0].tolist() == [*range(30)]


@pytest.mark.parametrize("on_threads", [True, False])
def test_the_first_fault_is_raised_and_what_is_ahead_is_bounded(on_threads):
    loaded = []

    def load(value):
        loaded.append(value)
        if value in {40, 41}:
            raise UsageError(what=f"image {value}", where="here", do="nothing")
        return [np.zeros((2, 2, 3), np.uint8)]

    work = Work.of(Named(on_threads=on_threads))
    with pytest.raises(UsageError, match="image 40"):
        list(encode_images(work, range(10_000), load, workers=3, at_once=4))
    # Two groups per thread and those in work; 4 images per thread and two groups.
    assert max(loaded) < 40 + 4 * (2 * 3 + 3 + 2)


def test_whoever_stops_reading_ends_the_threads_at_once(pictures):
    before = threading.active_count()
    stopped = []

    class Slow(Named):
        def encode(self, images):
            for start in range(0, len(images), 4):
                time.sleep(0.05)
                stopped.append(len(images[start : start + 4]))
            return np.zeros((len(images), 1), np.float32)

    parts = encode_images(
        Work.of(Slow(on_threads=True)), [pictures[0]] * 1024, lambda one: [one], workers=2
    )
    next(parts)
    calls = len(stopped)
    parts.close()
    assert threading.active_count() == before
    assert len(stopped) - calls <= 2 * 2  # of 16 that one group of 64 takes


def test_items_are_taken_and_results_kept_only_so_far_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: -number, items(), workers=2, ahead=5)
    for number in range(20):
        assert next(results) == -number
        assert len(taken) <= number + 1 + 5
    results.close()


def test_torch_computes_with_as_many_threads_afterwards_as_before(pictures):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []

        class Counting(Named):
            def encode(self, images):
                seen.append(torch.get_num_threads())
                return super().encode(images)

        encoded(Counting(on_threads=True), pictures, workers=2, at_once=2)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_waiting_is_the_share_of_time_without_an_image_to_encode():
    def load(value):
        time.sleep(0.02)
        return [np.full((2, 2, 3), value, np.uint8)]

    for on_threads in (True, False):
        rate = Rate()
        work = Work.of(Named(on_threads=on_threads))
        list(encode_images(work, range(8), load, workers=1, at_once=4, rate=rate))
        measured = rate.as_json()
        assert measured["images"] == 8
        assert measured["images_per_s"] < 50
        assert 0.5 < measured["decode_wait"] <= 1


def test_rates_of_partitions_are_added_by_their_time():
    parts = [
        {"images": 100, "images_per_s": 10.0, "decode_wait": 0.5, "host": "a"},
        {"images": 100, "images_per_s": 100.0, "decode_wait": 0.1},
        {"images": 0, "images_per_s": 0.0, "decode_wait": 0.0},  # all read from the cache
        {"seconds": 3.0},
    ]
    speed, waiting = add_rates(parts)
    assert speed == pytest.approx(200 / 11)
    assert waiting == pytest.approx((10 * 0.5 + 1 * 0.1) / 11)
    assert describe_rates(parts) == "18 images/s, decode wait 46%"
    assert describe_rates(parts[2:]) == ""


def test_a_network_gives_the_rows_of_every_group_whatever_its_size(pictures):
    groups = [pictures[:3], [], pictures[3:], pictures[:1]]
    encoder = network()
    rows = list(encoder.encode_each(iter(groups)))
    assert [len(part) for part in rows] == [len(group) for group in groups]
    for part, group in zip(rows, groups, strict=True):
        assert np.array_equal(part, encoder.encode(group))
    fitted = [[encoder.fit(image) for image in group] for group in groups]
    for part, again in zip(rows, encoder.encode_each(fitted), strict=True):
        assert np.array_equal(part, again)


def test_a_cpu_gives_a_group_before_it_takes_the_next(pictures):
    taken = []

    def groups():
        for number in range(3):
            taken.append(number)
            yield pictures[:5]

    for number, _ in enumerate(network().encode_each(groups())):
        assert taken == [*range(number + 1)]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_precision_is_another_encoder_with_almost_the_same_vectors(pictures, precision):
    encoder = network()
    other = encoder.in_precision(precision)
    assert other.fingerprint != encoder.fingerprint
    rows, exact = other.encode(pictures), encoder.encode(pictures)
    assert rows.dtype == np.float32
    assert not np.array_equal(rows, exact)
    np.testing.assert_allclose(rows, exact, rtol=0, atol=0.02)


def test_a_precision_of_what_torch_does_not_compute_is_refused():
    with pytest.raises(UsageError, match="precision bfloat16 is for networks that torch runs"):
        make_encoder("pixels", precision="bfloat16")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_gives_what_it_gives_batch_by_batch_and_nearly_what_a_cpu_does(pictures, precision):
    """Overlapped copies change no bit: 40 batches, each through memory that is used again."""
    placement = Placement("cuda", 4, precision)
    encoder = network("cuda")
    groups = [[*pictures, *pictures[:number]] for number in range(13)]
    fitted = [[encoder.fit(image) for image in group] for group in groups]
    forward, seen = encoder._forward, []
    for rows, group in zip(
        stream_batches(forward, iter(fitted), PLAIN, 24, placement), fitted, strict=True
    ):
        alone = [
            next(stream_batches(forward, [group[at : at + 4]], PLAIN, 24, placement))
            for at in range(0, len(group), 4)
        ]
        assert np.array_equal(rows, np.concatenate(alone))
        seen.append(rows)
    on_cpu = np.concatenate([network().outputs(group) for group in groups])
    tolerance = 1e-3 if precision == "float32" else 0.05
    np.testing.assert_allclose(np.concatenate(seen), on_cpu, rtol=0, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_threads_decode_for_a_gpu_and_change_nothing(pictures):
    encoder = network("cuda")
    images = [*pictures, None, *pictures] * 8
    rows, places = encoded(encoder, images, workers=4)
    again, same = encoded(encoder, images, workers=0)
    assert places == same
    assert np.array_equal(rows, again)
