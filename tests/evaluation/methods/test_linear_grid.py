"""The batched optimization of many linear heads against plain loops of torch."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.linear_grid import (
    LinearHeads,
    Slots,
    cached,
    keyed_batches,
    train_heads,
)
from dinoforge.evaluation.settings import LinearConfig, dino_v1

N, BLOCKS, DIM, CLASSES = 60, 4, 3, 5


def slots_and_labels(seed=0):
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randn(N, BLOCKS + 1, DIM, generator=generator, dtype=torch.float64)
    return slots, np.arange(N) % CLASSES


def plain_loop(probe, slots, labels, batches, config):
    """One head with autograd, torch's optimizer and schedule."""
    head = probe.head
    read = range(BLOCKS - head.blocks, BLOCKS + head.average_patches)
    x = torch.cat([slots[:, slot] for slot in read], dim=1)
    linear = torch.nn.Linear(x.shape[1], CLASSES, dtype=x.dtype)
    with torch.no_grad():
        linear.weight.copy_(probe.weights)
        linear.bias.zero_()
    rate = head.rate * config.batch_size / 256
    optimizer = torch.optim.SGD(linear.parameters(), rate, momentum=config.momentum)
    per_epoch = config.steps_per_epoch(len(labels))
    total = config.epochs * (per_epoch if config.decay == "step" else 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=0)
    for step in range(config.epochs * per_epoch):
        rows = torch.from_numpy(batches[step])
        loss = F.cross_entropy(linear(x[rows]), torch.from_numpy(labels)[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if config.decay == "step" or (step + 1) % per_epoch == 0:
            schedule.step()
    return linear


def first_batches(config, seed=0):
    steps = config.epochs * config.steps_per_epoch(N)
    return list(itertools.islice(keyed_batches(N, config.batch_size, seed), steps))


@pytest.mark.parametrize(
    "config",
    [
        LinearConfig(rates=[1e-2, 1.0], epochs=2, epoch_steps=7, batch_size=16),
        LinearConfig(rates=[0.1], blocks=[1, 2, 4], epochs=1, epoch_steps=9, batch_size=8),
        LinearConfig(
            rates=[0.5], blocks=[3], average_patches=[True], epochs=3, epoch_steps=0, batch_size=25
        ),
        LinearConfig(rates=[0.5, 2.0], epochs=3, epoch_steps=4, batch_size=16, decay="epoch"),
    ],
)
def test_all_heads_at_once_equal_a_loop_for_each(config):
    slots, labels = slots_and_labels()
    heads = LinearHeads(config, Slots(BLOCKS, True, DIM), CLASSES, seed=3, like=slots)
    initial = [heads.probe(number) for number in range(len(heads.heads))]
    batches = first_batches(config)
    epochs = train_heads(cached(slots), labels, heads, config=config, batches=iter(batches))
    assert list(epochs) == list(range(1, config.epochs + 1))
    for number, probe in enumerate(initial):
        truth, result = plain_loop(probe, slots, labels, batches, config), heads.probe(number)
        torch.testing.assert_close(result.weights, truth.weight.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(result.bias, truth.bias.detach(), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(
            heads.predict(slots)[number], result.scores(slots).argmax(dim=1)
        )


def test_the_published_grid_has_52_heads():
    slots, _ = slots_and_labels()
    heads = LinearHeads(LinearConfig(), Slots(BLOCKS, True, DIM), CLASSES, seed=0, like=slots)
    assert len(set(heads.heads)) == 52
    assert len(heads.parts) == 3  # last class token, patch mean, older class tokens: one product


def test_initial_weights_are_small_keyed_and_equal_for_all_rates():
    slots = torch.zeros(1, 5, 200)
    config = LinearConfig(rates=[0.1, 1.0], blocks=[1, 4], average_patches=[False])
    make = [LinearHeads(config, Slots(4, True, 200), 10, seed=s, like=slots) for s in (0, 0, 1)]
    probes = [[heads.probe(number) for number in range(4)] for heads in make]
    slow, fast, *_ = probes[0]
    assert slow.weights.std().item() == pytest.approx(0.01, rel=0.05)
    assert not slow.bias.any()
    assert torch.equal(slow.weights, fast.weights)
    assert torch.equal(slow.weights, probes[1][0].weights)
    assert not torch.equal(slow.weights, probes[2][0].weights)


def test_augmented_views_are_asked_for_the_rows_of_every_step():
    slots, labels = slots_and_labels()
    config = LinearConfig(rates=[0.1], epochs=1, epoch_steps=5, batch_size=12)
    batches = first_batches(config)
    asked = []

    def views(rows, step):
        asked.append((rows, step))
        return slots[torch.from_numpy(rows)] * (1 + step)

    shape = Slots(BLOCKS, True, DIM)
    heads = LinearHeads(config, shape, CLASSES, seed=0, like=slots)
    list(train_heads(views, labels, heads, config=config, batches=iter(batches)))
    assert [step for _, step in asked] == [0, 1, 2, 3, 4]
    for (rows, _), batch in zip(asked, batches, strict=True):
        np.testing.assert_array_equal(rows, batch)
    plain = LinearHeads(config, shape, CLASSES, seed=0, like=slots)
    list(train_heads(cached(slots), labels, plain, config=config, batches=iter(batches)))
    assert not torch.equal(heads.bias, plain.bias)


def test_a_head_that_diverges_leaves_the_others_alone():
    slots, labels = slots_and_labels()
    config = LinearConfig(
        rates=[1e-2, 1e308], blocks=[1], average_patches=[False], epochs=1, epoch_steps=30
    )
    shape = Slots(BLOCKS, True, DIM)
    heads = LinearHeads(config, shape, CLASSES, seed=0, like=slots)
    batches = first_batches(config)
    list(train_heads(cached(slots), labels, heads, config=config, batches=iter(batches)))
    assert heads.is_finite().tolist() == [True, False]


def test_batches_pass_over_all_rows_in_keyed_orders():
    rows = np.concatenate(list(itertools.islice(keyed_batches(7, 5, 0), 7)))
    passes = rows.reshape(5, 7)
    assert all(sorted(one) == list(range(7)) for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) > 1
    again = np.concatenate(list(itertools.islice(keyed_batches(7, 5, 0), 7)))
    np.testing.assert_array_equal(rows, again)


def test_the_protocol_of_dino_is_a_configuration():
    config = dino_v1()
    assert config.inputs == [(4, False)]
    assert (config.rates, config.epochs, config.steps_per_epoch(1_281_167)) == ([1e-3], 100, 1252)
    assert dino_v1(blocks=1, average_patches=True).inputs == [(1, True)]


@pytest.mark.parametrize(
    ("blocks", "has_mean", "text"),
    [(2, True, "heads read 4 blocks, the features have 2"), (4, False, "mean of the patch tokens")],
)
def test_slots_that_are_not_there(blocks, has_mean, text):
    with pytest.raises(UsageError, match=text):
        LinearHeads(
            LinearConfig(),
            Slots(blocks, has_mean, DIM),
            CLASSES,
            seed=0,
            like=torch.zeros(1, blocks + has_mean, DIM),
        )


def test_features_kept_in_half_precision_train_heads_in_float32():
    slots, labels = slots_and_labels()
    config = LinearConfig(rates=[0.1], epochs=1, epoch_steps=6, batch_size=16)
    trained = []
    for kept in (slots.half(), slots.half().float()):
        heads = LinearHeads(config, Slots(BLOCKS, True, DIM), CLASSES, seed=0, like=kept)
        batches = iter(first_batches(config))
        list(train_heads(cached(kept), labels, heads, config=config, batches=batches))
        assert heads.bias.dtype == torch.float32
        assert heads.predict(kept).shape == (4, N)
        trained.append(heads.probe(1).scores(kept))
    # Converted batches lie elsewhere in memory, and some processors then sum in another order.
    torch.testing.assert_close(*trained, rtol=1e-5, atol=1e-6)
