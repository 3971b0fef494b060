"""One ViT-S/14 training step on a CPU: CPU seconds per image and peak memory, against lightly.

    python benchmarks/train_step.py --peers ../shared/peers --peer-python /tmp/peers/bin/python

Batch 8, 2 x 224 + 8 x 98, 65,536 prototypes, one head for class tokens and patches, float32, one
thread, crops of noise. The peer is ``bench_train_lightly.py``: lightly 1.6 and timm. dinoforge
does what `training.loop` does in a step (forward, backward, clip, guard, AdamW, teacher), without
the data, centering as the peer does. Stochastic depth: the peer's 0.1 computes everything and
then drops; dinoforge's 0 is the same work, 0.4 (the recipe of the released ViT-L) skips it.

Every measurement is a process of its own, one warm-up step; the rounds interleave. The peer's
peak memory is that of the whole process, as ours. Environment of the peer: see ``crops.py``.
Ratio: CPU seconds, or memory, of the peer / those of dinoforge.
"""

import argparse
import json
import re
import runpy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import (
    declare_torchvision_operators,
    print_table,
    ratios,
    run_child,
    spread,
    start_clean,
)
from recording import write_result

PEER = "lightly + timm"
# name -> overrides of the recipe
OURS: dict[str, dict[str, Any]] = {
    "dinoforge, same work": {"drop_path": 0.0},
    "dinoforge, drop path 0.4": {"drop_path": 0.4},
}
BATCH = 8
LOCAL = 8


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="folder of bench_train_lightly.py")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--steps", type=int, default=2, help="timed, after one that is not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child == PEER:
        run_peer(args)
        return
    if args.child:
        print(json.dumps(run_ours(args, **OURS[args.child])))
        return
    names = [PEER, *OURS]
    cpu_s: dict[str, list[float]] = {name: [] for name in names}
    peak_mib: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            per_image, peak = measure(name, args)
            cpu_s[name].append(per_image)
            peak_mib[name].append(peak)
            print(f"round {number + 1}: {name}: {per_image:.2f} s, {peak:.0f} MiB", file=sys.stderr)
    figures = {
        "setting": f"ViT-S/14, batch {BATCH}, 2 x 224 + {LOCAL} x 98, 65,536 prototypes",
        "precision": args.precision,
        "steps": args.steps,
        "rounds": args.rounds,
        "contestants": {
            name: {
                "cpu_s_per_image": spread(cpu_s[name]),
                "peak_mib": spread(peak_mib[name], 0),
                "ratio_cpu": ratios(cpu_s[PEER], cpu_s[name]),
                "ratio_peak": ratios(peak_mib[PEER], peak_mib[name]),
            }
            for name in names
        },
    }
    show(figures)
    print(write_result(f"train_step-{args.precision}", figures).name)


def measure(name: str, args: argparse.Namespace) -> tuple[float, float]:
    """Run one contestant in a process of its own: CPU seconds per image, peak MiB."""
    python = args.peer_python if name == PEER else sys.executable
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as said:
        child = [__file__, "--child", name, "--steps", str(args.steps)]
        child += ["--precision", args.precision, "--peers", str(args.peers)]
        _, peak = run_child([python, *child], stdout=said.name)
        text = said.read()
    if name != PEER:
        return json.loads(text.splitlines()[-1])["cpu_s_per_image"], peak
    result = re.search(r"([\d.]+) CPU s/image \([\d.]+ wall\)", text)
    assert result, f"the peer said something else: {text[-500:]}"
    return float(result[1]), peak


def run_peer(args: argparse.Namespace) -> None:
    declare_torchvision_operators()
    dtype = {"float32": "fp32", "bfloat16": "bf16"}[args.precision]
    setting = ["--batch", str(BATCH), "--local", str(LOCAL), "--protos", "65536"]
    sys.argv = ["", *setting, "--threads", "1", "--steps", str(args.steps), "--dtype", dtype]
    runpy.run_path(str(args.peers / "bench_train_lightly.py"), run_name="__main__")


def run_ours(args: argparse.Namespace, *, drop_path: float) -> dict[str, float]:
    import torch
    from training_step import Step

    from dinoforge.training.config import LossConfig, ModelConfig, TeacherConfig, TrainingConfig

    config = TrainingConfig(
        device="cpu",
        precision=args.precision,
        threads=1,
        batch_size=BATCH,
        separate_heads=False,
        model=ModelConfig(architecture="small", drop_path=drop_path),
        teacher=TeacherConfig(balance="centering"),
        loss=LossConfig(),
    )
    step = Step(config)
    generator = torch.Generator().manual_seed(0)
    started = 0.0
    for number in range(args.steps + 1):
        whole = torch.randn((2 * BATCH, 3, 224, 224), generator=generator)
        local = torch.randn((LOCAL * BATCH, 3, 98, 98), generator=generator)
        if number == 1:
            started = time.process_time()
        step(number, whole, local)
    return {"cpu_s_per_image": (time.process_time() - started) / args.steps / BATCH}


def show(figures: dict[str, Any]) -> None:
    rows = []
    for name, one in figures["contestants"].items():
        cells = [name]
        for key, digits in (
            ("cpu_s_per_image", 2),
            ("ratio_cpu", 2),
            ("peak_mib", 0),
            ("ratio_peak", 2),
        ):
            median, low, high = (f"{one[key][k]:.{digits}f}" for k in ("median", "min", "max"))
            cells.append(f"{median} [{low}..{high}]")
        rows.append(cells)
    print(f"{figures['setting']}, {figures['precision']}")
    print_table(["contestant", "CPU s / image", "ratio", "peak MiB", "ratio"], rows)


if __name__ == "__main__":
    main()
