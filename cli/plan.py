"""``dinoforge plan``: what a training needs before anything is bought."""

import argparse
import functools
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import (
    Command,
    add_output_arguments,
    add_recipe_choice,
    load,
    print_json,
    print_table,
    recipe_requests,
)

if TYPE_CHECKING:
    from dinoforge.training.plan import Plan

__all__ = ["COMMAND"]

_DEFAULT_GPU = "h100"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_choice(parser)
    hardware = parser.add_argument_group("hardware")
    add = functools.partial(hardware.add_argument, type=int, metavar="N")
    add("--ranks", default=1, help="processes, one per GPU (default 1)")
    per_node = "ranks per machine (default 8); parallel.shard=0 means this number under hsdp"
    add("--ranks-per-node", default=8, help=per_node)
    gpus = "a100-40, a100, h100 (default), h200, l40s, or GB of memory"
    gpu = f"{gpus}; if given, a plan that does not fit is an error"
    add("--gpu", type=str, metavar="GPU", help=gpu)
    mfu = "assumed MFU (0 to 1); default: the closest published run"
    add("--mfu", type=float, metavar="SHARE", help=mfu)
    add("--images", help="images in the data set, for the number of epochs")
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    if recipe_requests(args, "training"):
        return 0
    from dinoforge.training.config import TrainingConfig
    from dinoforge.training.plan import plan_of

    config = load(args, "training", TrainingConfig).config
    plan = plan_of(
        config,
        args.ranks,
        ranks_per_node=args.ranks_per_node,
        gpu=args.gpu or _DEFAULT_GPU,
        mfu=args.mfu,
        images_in_set=args.images,
    )
    if not args.json:
        _show(plan)
    if args.gpu is not None:
        plan.check_memory()
    if args.json:
        print_json(plan.as_json())
    else:
        print(_verdict(plan))
    return 0


def _show(plan: "Plan") -> None:
    place = plan.placement
    over = f" over {place.shards}" if place.is_sharded else ""
    print(
        f"{plan.model}, {place.ranks} x {plan.gpu.name}, {place.mode}{over}, {plan.images} images "
        f"per rank x {place.ranks * plan.micro_batches} = {plan.batch_size} per step"
    )
    for show in (_show_parameters, _show_memory, _show_flops, _show_run):
        show(plan)
    held = plan.parameters_of_rank_0
    print(f"rank 0 holds {held:,} parameters of the student and as many of the teacher")


def _show_parameters(plan: "Plan") -> None:
    rows: list[list[object]] = [[name, number] for name, number in plan.parameters.items()]
    rows.append(["student; the teacher has the same", sum(plan.parameters.values())])
    print_table(["network", "parameters"], rows)
    if plan.backbone_at_518:
        print(f"backbone as released, for 518 pixels: {plan.backbone_at_518:,} parameters")


def _show_memory(plan: "Plan") -> None:
    memory = plan.memory
    parts = {
        "student, float32": memory.student,
        "gradients": memory.gradients,
        "AdamW": memory.optimizer,
        "teacher": memory.teacher,
        "weights in use: copies, gathered units": memory.weights,
        "batch of crops": memory.crops,
        "targets of the teacher": memory.targets,
        "activations: blocks": memory.activations["blocks"],
        "activations: backbone before and after its blocks": memory.activations["backbone"],
        "activations: heads": memory.activations["heads"],
        "activations: losses": memory.activations["losses"],
    }
    rows: list[list[object]] = [[name, _gb(size)] for name, size in parts.items() if size]
    rows += [[f"peak: {phase}", _gb(size)] for phase, size in memory.phases.items()]
    rows.append(["on the host: copy for writing a checkpoint", _gb(memory.host)])
    print_table(["memory per rank", "GB"], rows)


def _show_flops(plan: "Plan") -> None:
    flops = plan.flops
    parts = {
        "teacher, backbone": flops.teacher_backbone,
        "teacher, heads": flops.teacher_heads,
        "student, backbone (forward + backward)": flops.student_backbone,
        "student, heads (forward + backward)": flops.student_heads,
        "student, losses": flops.student_losses,
        "needed by the method": flops.model,
        "attention scores, recomputed": flops.attention_again,
        "checkpointed blocks, recomputed": flops.blocks_again,
    }
    rows: list[list[object]] = [
        [name, _round(size / 1e9), f"{size / flops.model:.1%}"]
        for name, size in parts.items()
        if size
    ]
    print_table(["operations per image", "GFLOP", "share"], rows)


def _show_run(plan: "Plan") -> None:
    storage, speed = plan.storage, plan.speed
    rows = {"images seen": f"{plan.steps:,} steps x {plan.batch_size:,} = {plan.images_seen:,}"}
    if plan.epochs is not None:
        rows["passes over the data"] = f"{plan.epochs:,.1f}"
    if speed is not None:
        rows["speed"] = f"{speed.images_per_s:,.0f} images/s per GPU, MFU {speed.mfu}"
        rows["MFU from"] = speed.source
        rows["time"] = f"{speed.hours:,.1f} h, {speed.gpu_hours:,.0f} GPU-hours"
        cores = f"{speed.cores_per_gpu:.1f} per GPU, colors on the GPU"
        rows["cores for decoding and cropping"] = cores
    rows["checkpoints"] = (
        f"{storage.checkpoints_written:,} of {_gb(storage.checkpoint_bytes)} GB written, "
        f"{storage.checkpoints_kept:,} kept"
    )
    rows["backbones"] = f"{storage.exports_kept:,} of {_gb(storage.export_bytes)} GB kept"
    rows["disk"] = (
        f"{_gb(storage.kept_bytes)} GB in {storage.files:,} files at the end, "
        f"{_gb(storage.peak_bytes)} GB at most, {_gb(storage.written_bytes):,} GB written"
    )
    print_table(["the run", ""], list(rows.items()))


def _verdict(plan: "Plan") -> str:
    verdict = "fits" if plan.fits else "does NOT fit"
    memory = f"needs {_gb(plan.memory.peak)} GB; {_gb(plan.gpu.usable)} GB usable"
    most = plan.largest_images
    largest = f"at most {most} images per rank" if most else "not even one image fits"
    return f"{verdict} {plan.gpu.name}: {memory}; {largest}"


def _gb(size: float) -> int | float:
    return _round(size / 1e9)


def _round(number: float) -> int | float:
    """Round to three significant digits, or to a whole number above 100."""
    return round(number) if number >= 100 else float(f"{number:.3g}")


COMMAND = Command(
    sentence="print what a training needs: memory, FLOPs, disk and hours, without a GPU",
    examples=(
        "dinoforge plan vitl16_fast --ranks 32 --gpu a100",
        "dinoforge plan vitg14_long --ranks 64 batch_size=768 parallel.mode=hsdp",
        "dinoforge plan my.yaml parallel.activation_checkpointing=blocks --json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
