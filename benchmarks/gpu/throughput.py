"""Images per second, MFU and peak memory of a whole training step on one GPU, by what is used.

    python benchmarks/gpu/throughput.py small        # or base, large, giant
    python benchmarks/gpu/throughput.py small --cpu --tiny --out FOLDER    # that it works at all

Crops of noise on the device through ``benchmarks/training_step.py``: teacher, student, losses,
backward, clip, AdamW, teacher update, bfloat16 autocast, built by `make_parallel` as a run is.
Every variant is a process of its own; one that fails (memory, a missing package) is recorded with
the reason. A piece ends within its ``--minutes``: what was not begun by then is recorded as such.

MFU: FLOPs that the method needs by `training.plan` (exact, as its tests show; samples skipped by
stochastic depth do not count, what is computed a second time neither) over the dense bfloat16 peak
of the card; beside it the rate of one large product on the same card, and the peak of memory that
`training.plan` foretells.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from device import has_cuda, machine, product_rate, refuse, wait
from measuring import print_table, spread
from recording import RESULTS, write_result

# Images per step: about what 80 GB hold without checkpointing.
BATCHES = {"small": 64, "base": 64, "large": 32, "giant": 12}
WARM_UPS = 3
LOOK = "look"  # the process that looks at the machine
LEAST_S = 20  # no process is begun with less time left
# Dense bfloat16 FLOP/s of the vendor's data sheets, the most special name first.
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Variant:
    """One way to run the same step."""

    attention: str = "sdpa"
    packing: str = "packed"
    compiles: bool = False
    checkpoints: bool = False

    @property
    def name(self) -> str:
        extras = ["compiled"] * self.compiles + ["checkpointed"] * self.checkpoints
        return ", ".join([self.attention, self.packing, *extras])


# The most reporting ones first: time may run out.
VARIANTS = (
    Variant(packing="separate"),
    Variant(),
    Variant("varlen"),
    Variant("varlen", compiles=True),
    Variant(compiles=True),
    Variant("varlen", checkpoints=True),
    Variant("varlen", compiles=True, checkpoints=True),
    Variant("xformers"),
    Variant("auto"),
)
TINY = (
    Variant(packing="separate"),
    Variant("plain", checkpoints=True),
    Variant("varlen"),  # refused on a CPU: a failure is recorded
)


def main() -> int:
    args = read_arguments()
    if not args.cpu and not has_cuda():
        return refuse()
    if args.child:
        print(json.dumps(work_of_child(args)))
        return 0
    ends = time.monotonic() + 60 * args.minutes
    about = run_child(LOOK, ends)
    result = {}
    for variant in variants_of(args):
        result[variant.name] = run_child(variant.name, ends)
        print(f"{variant.name}: {result[variant.name]}", file=sys.stderr)
    figures = figures_of(args, about, result)
    show(figures)
    topic = "-".join(["gpu", args.size, *(["tiny"] if args.tiny else [])])
    print(write_result(topic, figures, folder=args.out).name)
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=tuple(BATCHES))
    parser.add_argument("--batch", type=int, default=0, help="images per step; 0: as listed above")
    parser.add_argument("--patch", type=int, choices=(14, 16), default=14)
    parser.add_argument("--drop-path", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=10, help="timed")
    parser.add_argument("--minutes", type=float, default=7.5, help="of the whole piece")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cpu", action="store_true", help="to see that it works")
    parser.add_argument("--tiny", action="store_true", help="two blocks, small crops, three ways")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def variants_of(args: argparse.Namespace) -> tuple[Variant, ...]:
    return TINY if args.tiny else VARIANTS


def run_child(name: str, ends: float) -> dict[str, Any]:
    """Do one variant, or the look, in a process of its own; a failure is its last line."""
    left_s = ends - time.monotonic()
    if left_s < LEAST_S:
        return {"failed": "not begun: the piece's time was up"}
    command = [sys.executable, *sys.argv, "--child", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left_s, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished after {left_s:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def recipe(args: argparse.Namespace, variant: Variant) -> Any:
    from dinoforge.training.config import HeadConfig, ModelConfig, ParallelConfig, TrainingConfig
    from dinoforge.training.data.crops import CropsConfig

    model = {
        "architecture": args.size,
        "patch_size": args.patch,
        "drop_path": args.drop_path,
        "attention": variant.attention,
        "packing": variant.packing,
    }
    more: dict[str, Any] = {"crops": CropsConfig(local_size=98 if args.patch == 14 else 96)}
    if args.tiny:
        sizes = {"architecture": "custom", "width": 32, "depth": 2, "heads": 2}
        head = HeadConfig(prototypes=64, hidden=16, bottleneck=8)
        side = 4 * args.patch
        crops = CropsConfig(global_size=side, local_size=side // 2, num_local=2)
        model |= sizes
        more = {"crops": crops, "dino_head": head, "ibot_head": head}
    return TrainingConfig(
        device="cpu" if args.cpu else "cuda",
        precision="bfloat16",
        threads=1 if args.cpu else 0,
        batch_size=args.batch or (4 if args.tiny else BATCHES[args.size]),
        model=ModelConfig(**model),
        parallel=ParallelConfig(
            compile=variant.compiles,
            activation_checkpointing="blocks" if variant.checkpoints else "none",
        ),
        **more,
    )


def work_of_child(args: argparse.Namespace) -> dict[str, Any]:
    if args.child == LOOK:
        return look(args)
    return measure(args, {one.name: one for one in variants_of(args)}[args.child])


def look(args: argparse.Namespace) -> dict[str, Any]:
    """Describe the machine, and what a step needs: the same for all variants."""
    from dinoforge.training.build import choose_device
    from dinoforge.training.plan import plan_of

    config = recipe(args, Variant())
    device = choose_device(config)
    facts = machine(device)
    if device.type == "cuda":
        facts["product_tflops"] = round(product_rate(device) / 1e12, 1)
    return {"machine": facts, "flops_per_image": plan_of(config).flops.model}


def measure(args: argparse.Namespace, variant: Variant) -> dict[str, Any]:
    """Run the steps of one variant."""
    import torch
    from training_step import Step, noise

    from dinoforge.training.build import choose_device
    from dinoforge.training.plan import plan_of

    config = recipe(args, variant)
    device = choose_device(config)
    step = Step(config, device)
    crops = noise(config, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the probe
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(WARM_UPS + args.steps):
        wait(device)
        started = time.perf_counter()
        (losses,) = step(number, *crops)
        wait(device)
        seconds.append(time.perf_counter() - started)
    timed = seconds[WARM_UPS:]
    return {
        "images_per_s": round(config.batch_size / statistics.median(timed), 1),
        "step_ms": spread([1000 * s for s in timed], 1),
        "first_step_s": round(seconds[0], 1),
        "peak_gib": round(peak_bytes(device) / 2**30, 2),
        "planned_peak_gib": round(plan_of(config).memory.peak / 2**30, 2),
        "batch": config.batch_size,
        "loss": round(losses.total.item(), 4),
        "attention": asdict(step.attention),
    }


def peak_bytes(device: Any) -> int:
    import resource

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def figures_of(
    args: argparse.Namespace, about: dict[str, Any], result: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Put them together; no MFU where the look failed or the card is unknown."""
    card = about.get("machine", {})
    flops = about.get("flops_per_image")
    peak = next((p for name, p in PEAKS.items() if name in card.get("device", "")), None)
    for one in result.values():
        if flops and "failed" not in one:
            one["tflops"] = round(flops * one["images_per_s"] / 1e12, 4)
            one["mfu"] = round(flops * one["images_per_s"] / peak, 3) if peak else None
    return {
        "setting": f"ViT {args.size}, patch {args.patch}, drop path {args.drop_path}, bfloat16",
        "steps": args.steps,
        "machine": card,
        "peak_tflops": peak / 1e12 if peak else None,
        "gflops_per_image": round(flops / 1e9, 4) if flops else about.get("failed"),
        "variants": result,
    }


def show(figures: dict[str, Any]) -> None:
    rows = []
    for name, one in figures["variants"].items():
        if "failed" in one:
            rows.append([name, "-", "-", "-", one["failed"][:60]])
        else:
            cells = (one["images_per_s"], one.get("mfu"), one["peak_gib"])
            rows.append([name, *cells, f"first step {one['first_step_s']} s"])
    print(figures["setting"], figures["machine"].get("device", ""), sep=", ")
    print_table(["variant", "images / s", "MFU", "peak GiB", ""], rows)


if __name__ == "__main__":
    sys.exit(main())
