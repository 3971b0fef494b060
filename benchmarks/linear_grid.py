"""All heads of DINOv2's linear grid in one optimization against a plain loop for each.

    python benchmarks/linear_grid.py --rounds 3

The loop is the obvious one: `nn.Linear`, `torch.optim.SGD`, `CosineAnnealingLR`, autograd, and the
input of a batch joined from cached class tokens and patch means. Initial weights and batches are
the same, so the heads end equal (checked). Ratio: CPU seconds of the loops / of one optimization.
"""

import argparse
import itertools
from typing import Any

import numpy as np
import torch
from measuring import blas, interleave, print_table, ratios, spread, start_clean
from recording import write_result
from torch.nn import functional as F

from dinoforge.evaluation.methods.linear_grid import (
    LinearHeads,
    Probe,
    Slots,
    cached,
    keyed_batches,
    train_heads,
)
from dinoforge.evaluation.settings import LinearConfig

BLOCKS, DIM, BATCH = 4, 384, 128
COMPARED = 500  # images whose predictions have to be equal
# Images, classes, steps: Imagenette-144, CIFAR-10, and a hundred classes.
SIZES = ((700, 10, 100), (10_000, 10, 100), (10_000, 100, 20))


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"rounds": args.rounds, "blas": blas(), "sizes": []}
    rows = []
    for num, classes, steps in SIZES:
        figures["sizes"].append(measure(num, classes, steps, args.rounds))
        result = figures["sizes"][-1]
        rows.append([num, classes, *(result[k]["median"] for k in ("one_ms", "loops_ms", "ratio"))])
    print_table(["images", "classes", "one, ms per step", "52 loops", "ratio"], rows)
    print(write_result("linear_grid", figures).name)


def measure(num: int, classes: int, steps: int, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    slots = torch.randn(num, BLOCKS + 1, DIM, generator=generator)
    labels = np.arange(num) % classes
    slots[torch.arange(num), :, torch.from_numpy(labels)] += 2
    config = LinearConfig(epochs=1, epoch_steps=steps, batch_size=BATCH)
    batches = list(itertools.islice(keyed_batches(num, BATCH, 0), steps))
    fresh = LinearHeads(config, Slots(BLOCKS, True, DIM), classes, seed=0, like=slots)
    initial = [fresh.probe(number) for number in range(len(fresh.heads))]

    def at_once() -> torch.Tensor:
        heads = LinearHeads(config, Slots(BLOCKS, True, DIM), classes, seed=0, like=slots)
        list(train_heads(cached(slots), labels, heads, config=config, batches=iter(batches)))
        return heads.predict(slots[:COMPARED])

    def loops() -> torch.Tensor:
        return torch.stack([one_loop(probe, slots, labels, batches) for probe in initial])

    seconds, predicted = interleave({"one": at_once, "loops": loops}, rounds)
    agree = float((predicted["one"] == predicted["loops"]).float().mean())
    assert agree > 0.999, agree  # float32: orders of summation differ
    return {
        "images": num,
        "classes": classes,
        "dim": DIM,
        "batch": BATCH,
        "steps": steps,
        "one_ms": spread([1000 * s / steps for s in seconds["one"]]),
        "loops_ms": spread([1000 * s / steps for s in seconds["loops"]]),
        "ratio": ratios(seconds["loops"], seconds["one"]),
        "equal_predictions": round(agree, 6),
    }


def one_loop(
    probe: Probe, slots: torch.Tensor, labels: np.ndarray, batches: list[np.ndarray]
) -> torch.Tensor:
    head, targets = probe.head, torch.from_numpy(labels)

    def input_of(rows: torch.Tensor) -> torch.Tensor:
        read = range(BLOCKS - head.blocks, BLOCKS + head.average_patches)
        return torch.cat([slots[rows, slot] for slot in read], dim=1)

    linear = torch.nn.Linear(*probe.weights.T.shape)
    with torch.no_grad():
        linear.weight.copy_(probe.weights)
        linear.bias.zero_()
    rate = head.rate * BATCH / 256
    optimizer = torch.optim.SGD(linear.parameters(), rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches), eta_min=0)
    for batch in batches:
        rows = torch.from_numpy(batch)
        loss = F.cross_entropy(linear(input_of(rows)), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return linear(input_of(torch.arange(COMPARED))).argmax(1)


if __name__ == "__main__":
    main()
