"""``dinoforge plan`` against real training steps on the CPU: ratios planned / measured.

    python benchmarks/plan_against_measured.py
    python benchmarks/plan_against_measured.py --images ../shared/data/imagenet-sample/*.tar

Every case is a recipe and a batch size in a process of its own, on crops of noise. Measured:
operations by `torch.utils.flop_counter` over a forward and backward pass; bytes that autograd
saves, by its hooks, each storage once; most bytes of tensors during the second step, by torch's
allocator; growth of the process's peak memory since a tiny step (with what the allocator holds
back and kernels take); parameters, gradients and moments of the objects that were built.

With ``--images`` also how many JPEGs a core decodes and cuts in a second, resized to 471 x 395
pixels first, as the originals of ImageNet are on average (`training.plan.hardware`).

Not measured here: a GPU. Its figures come from the same accounting with two bytes for operands of
products and attention. The cases in bfloat16 check that accounting but for attention, which runs
in float32 on CPUs.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import print_table, run_child, start_clean
from recording import write_result

# name -> recipe, images of the batch, changes
CASES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "128 x 4, CIFAR-10": ("cifar10_cpu", 64, ()),
    "S/16 fast": ("vits16_fast", 4, ()),
    "S/16 fast, bfloat16": ("vits16_fast", 4, ("precision=bfloat16",)),
    "S/14 long, 4 registers": ("vitl14_long_reg4", 4, ("model.architecture=small",)),
    "S/14 long, plain attention": (
        "vitl14_long",
        2,
        ("model.architecture=small", "model.attention=plain", "model.drop_path=0"),
    ),
    "B/16 fast": ("vitb16_fast", 2, ()),
    "B/14 long, bfloat16": ("vitl14_long", 2, ("model.architecture=base", "precision=bfloat16")),
    "L/16 fast": ("vitl16_fast", 2, ()),
}
TINY = ("model.architecture=custom", "model.width=64", "model.heads=4", "model.depth=1")
TINY += tuple(f"{head}_head.prototypes=64" for head in ("dino", "ibot"))
FIGURES = ("flops", "saved", "tensors", "process")


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--images", nargs="*", default=[], help="tars or folders of JPEG files")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_case(*CASES[args.child])))
        return
    result = {}
    for name in args.only:
        result[name] = in_a_process(name)
        reported = {key: round(result[name][key]["ratio"], 3) for key in FIGURES}
        print(f"{name}: {reported}", file=sys.stderr)
    figures: dict[str, Any] = {"ratio": "planned / measured", "cases": result}
    if args.images:
        figures["decoding"] = decoding(args.images)
    show(figures)
    print(write_result("plan_against_measured", figures).name)


def in_a_process(name: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as said:
        run_child([sys.executable, __file__, "--child", name], stdout=said.name)
        result: dict[str, Any] = json.loads(said.read().splitlines()[-1])
    return result


def run_case(recipe: str, images: int, changes: tuple[str, ...]) -> dict[str, Any]:
    import torch
    from training_step import Step, count_flops, masked_patches, noise, peak_bytes, saved_bytes

    from dinoforge.config import find_recipe, load_config
    from dinoforge.training.config import TrainingConfig
    from dinoforge.training.plan.placement import Placement, held_by_rank_0, student_parameters
    from dinoforge.training.plan.simulation import Simulation
    from dinoforge.training.plan.sizes import memory_of_rank

    torch.set_num_threads(1)
    fixed = ("device=cpu", "threads=1", f"batch_size={images}", "steps=10", "parallel.mode=auto")
    fixed += ("model.attention=sdpa",)  # unless a case changes it
    fixed += tuple(f"{key}=null" for key in ("optimizer.warmup", "optimizer.freeze_last_layer"))
    precision = () if "precision=bfloat16" in changes else ("precision=float32",)
    path = find_recipe("training", recipe)
    phases = ("teacher.temperature_warmup=null",)
    config = load_config(TrainingConfig, path, [*fixed, *precision, *phases, *changes])
    warm_up(load_config(TrainingConfig, path, [*fixed, *precision, *phases, *changes, *TINY]))
    before = resident("VmRSS")
    step = Step(config)
    crops = noise(config)
    for number in range(2):
        step(number, *crops)
    process = resident("VmHWM") - before
    step = Step(config)
    tensors = peak_bytes(step, *crops)
    parts = step.views(0, *crops)
    masked = masked_patches(parts)
    simulation, placement = Simulation(config, "cpu"), Placement()
    batch = simulation.run(images, masked)
    most = max(masked_patches(step.views(number, *crops)) for number in range(2))
    whole, held = student_parameters(config), held_by_rank_0(config, placement)
    memory = memory_of_rank(config, placement, whole, held, simulation.run(images, most))
    kept = memory_of_rank(config, placement, whole, held, batch).activations
    saved = saved_bytes(step, parts[0])
    parameters = sum(held.values())
    assert parameters == sum(p.numel() for p in step.method.student.parameters())
    assert memory.optimizer == sum(
        moment.numel() * moment.element_size()
        for state in step.optimizer.state.values()
        for name, moment in state.items()
        if name != "step"
    )
    return {
        "recipe": recipe,
        "images": images,
        "changes": list(changes),
        "masked": masked,
        "student_parameters": parameters,  # exact, as are the moments
        "flops": compare(images * batch.flops.executed, count_flops(step, parts)),
        "saved": compare(sum(kept.values()), saved.activations),
        "tensors": compare(memory.peak, tensors),
        "process": compare(memory.peak, process),
    }


def warm_up(config: Any) -> None:
    """Load what torch loads on first use, so that it is not counted as memory of the step."""
    from training_step import Step, noise

    Step(config)(0, *noise(config))


def compare(planned: float, measured: float) -> dict[str, float]:
    return {"planned": planned, "measured": measured, "ratio": round(planned / measured, 4)}


def resident(name: str) -> int:
    """Resident memory of this process, now or at its most: bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return int(line.split()[1]) * 1024


def decoding(paths: list[str], *, num: int = 64, rounds: int = 5) -> dict[str, Any]:
    """Decode and cut as a data worker does."""
    import io
    import statistics

    import numpy as np
    import torch
    from PIL import Image

    from dinoforge.sources.image_set import open_images
    from dinoforge.training.data.crops import CropsConfig
    from dinoforge.training.data.dataset import TrainingData
    from dinoforge.training.data.order import ImageOrder
    from dinoforge.training.data.parts import DataConfig

    torch.set_num_threads(1)
    everything = open_images(paths, cache=Path("/nonexistent"))
    chosen = np.random.default_rng(0).permutation(len(everything))[:num]
    with tempfile.TemporaryDirectory() as folder:
        sizes = []
        for index in chosen:
            picture = Image.open(io.BytesIO(everything.read(int(index)))).convert("RGB")
            path = Path(folder) / f"{index}.jpg"
            picture.resize((471, 395), Image.Resampling.BICUBIC).save(path, quality=96)
            sizes.append(path.stat().st_size)
        images = open_images([folder], cache=Path(folder) / "cache")
        data_config = DataConfig(paths=[folder], cache="none")
        order = ImageOrder(data_config.mixture, [num], batch_size=num, seed=0)
        data = TrainingData(images, CropsConfig(), data_config, order=order)
        rates = []
        for number in range(rounds + 1):
            started = time.process_time()
            data._cutter(number)  # noqa: SLF001 - a worker's part of a batch
            rates.append(num / (time.process_time() - started))
    return {
        "images": num,
        "mean_bytes": round(statistics.mean(sizes)),
        "images_per_core_s": round(statistics.median(rates[1:]), 1),
        "rounds": [round(rate, 1) for rate in rates[1:]],
    }


def show(figures: dict[str, Any]) -> None:
    rows = []
    for name, one in figures["cases"].items():
        cells = [name, one["images"], f"{one['flops']['measured'] / one['images'] / 1e9:.1f}"]
        cells += [f"{one['tensors']['measured'] / 1e9:.2f}"]
        rows.append([*cells, *(f"{one[key]['ratio']:.3f}" for key in FIGURES)])
    header = ["planned / measured", "images", "GFLOP / image", "tensors, GB"]
    print_table([*header, "FLOPs", "saved", "tensors", "process"], rows)
    if "decoding" in figures:
        print(f"decoded and cut: {figures['decoding']['images_per_core_s']} images per core second")


if __name__ == "__main__":
    main()
