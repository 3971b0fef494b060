"""``dinoforge plan``: what a training needs before anything is bought."""

import argparse
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
    where = parser.add_argument_group("where it would run")
    where.add_argument(
        "--ranks", type=int, default=1, metavar="N", help="processes, one a GPU (default 1)"
    )
    where.add_argument(
        "--ranks-per-node",
        type=int,
        default=8,
        metavar="N",
        help="of one machine (default 8): what parallel.shard=0 stands for under hsdp",
    )
    where.add_argument(
        "--gpu",
        metavar="GPU",
        help="a100-40, a100, h100 (default), h200, l40s, or GB of memory; what it does not hold is "
        "an error when this is given",
    )
    where.add_argument(
        "--mfu", type=float, metavar="SHARE", help="of the GPU's rate; default: a published run's"
    )
    where.add_argument("--images", type=int, metavar="N", help="images of the data, for epochs")
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    if recipe_requests(args, "training"):
        return 0
    from dinoforge.training.config import TrainingConfig
    from dinoforge.training.plan import check_sharding, plan_of

    config = load(args, "training", TrainingConfig).config
    plan = plan_of(
        config,
        args.ranks,
        ranks_per_node=args.ranks_per_node,
        gpu=args.gpu or _DEFAULT_GPU,
        mfu=args.mfu,
        images_in_set=args.images,
    )
    held = check_sharding(config, plan.placement)
    if not args.json:
        _show(plan)
        print(f"rank 0 holds {held:,} parameters of the student and as many of the teacher")
    if args.gpu is not None:
        plan.check_memory()
    if args.json:
        print_json(plan.as_json() | {"parameters_of_rank_0": held})
    else:
        print(_verdict(plan))
    return 0


def _show(plan: "Plan") -> None:
    place = plan.placement
    over = f" over {place.shards}" if place.is_sharded else ""
    print(
        f"{plan.model}, {place.ranks} x {plan.gpu.name}, {place.mode}{over}, {plan.images} images "
        f"a rank x {place.ranks * plan.micro_batches} = {plan.batch_size} a step"
    )
    _show_parameters(plan)
    _show_memory(plan)
    _show_flops(plan)
    _show_run(plan)


def _show_parameters(plan: "Plan") -> None:
    rows: list[list[object]] = [[name, number] for name, number in plan.parameters.items()]
    rows.append(["student, and the teacher again", sum(plan.parameters.values())])
    print_table(["network", "parameters"], rows)
    if plan.backbone_at_518:
        print(f"backbone with the released grid of 518 pixels: {plan.backbone_at_518:,} parameters")


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
        "activations: crops as the network takes them": memory.activations.images,
        "activations: blocks, global crops": memory.activations.global_blocks,
        "activations: blocks, local crops": memory.activations.local_blocks,
        "activations: inputs of checkpointed blocks": memory.activations.block_inputs,
        "activations: ends of the backbone": memory.activations.backbone_ends,
        "activations: heads": memory.activations.heads,
        "logits: log-probabilities, targets of each view": memory.activations.logits,
    }
    rows: list[list[object]] = [[name, _gb(size)] for name, size in parts.items() if size]
    rows += [[f"most during: {phase}", _gb(size)] for phase, size in memory.phases.items()]
    rows.append(["on the host: copy that a checkpoint is written from", _gb(memory.host)])
    print_table(["memory of a rank", "GB"], rows)


def _show_flops(plan: "Plan") -> None:
    flops = plan.flops
    parts = {
        "teacher, backbone": flops.teacher_backbone,
        "teacher, heads": flops.teacher_heads,
        "student, backbone (forward + backward)": flops.student_backbone,
        "student, heads (forward + backward)": flops.student_heads,
        "positions, KoLeo": flops.other,
        "needed by the method": flops.model,
        "attention scores again": flops.attention_again,
        "checkpointed blocks again": flops.blocks_again,
    }
    rows: list[list[object]] = [
        [name, _round(size / 1e9), f"{size / flops.model:.1%}"]
        for name, size in parts.items()
        if size
    ]
    print_table(["operations of an image", "GFLOP", "share"], rows)


def _show_run(plan: "Plan") -> None:
    storage = plan.storage
    rows = [["images seen", f"{plan.steps:,} steps x {plan.batch_size:,} = {plan.images_seen:,}"]]
    if plan.epochs is not None:
        rows.append(["passes over the data", f"{plan.epochs:,.1f}"])
    if plan.speed is not None:
        speed = plan.speed
        rows += [
            ["speed", f"{speed.images_per_s:,.0f} images/s and GPU, MFU {speed.mfu}"],
            ["MFU of", speed.source],
            ["time", f"{speed.hours:,.1f} h, {speed.gpu_hours:,.0f} GPU-hours"],
            [
                "cores that decode and cut",
                f"{speed.cores_per_gpu:.1f} a GPU, colors there",
            ],
        ]
    rows += [
        [
            "checkpoints",
            f"{storage.checkpoints_written:,} of {_gb(storage.checkpoint_bytes)} GB written, "
            f"{storage.checkpoints_kept:,} kept",
        ],
        ["backbones", f"{storage.exports_kept:,} of {_gb(storage.export_bytes)} GB kept"],
        [
            "disk",
            f"{_gb(storage.kept_bytes)} GB in {storage.files:,} files at the end, "
            f"{_gb(storage.peak_bytes)} GB at most, {_gb(storage.written_bytes):,} GB written",
        ],
    ]
    print_table(["the run", ""], rows)


def _verdict(plan: "Plan") -> str:
    room = f"{_gb(plan.memory.peak)} of {_gb(plan.gpu.usable)} GB to plan with"
    most = f"{plan.largest_images} images a rank at most" if plan.largest_images else "not even one"
    said = "fits" if plan.fits else "does NOT fit"
    return f"{said} {plan.gpu.name}: {room}; {most}"


def _gb(size: float) -> int | float:
    return _round(size / 1e9)


def _round(number: float) -> int | float:
    """Keep three significant digits, and all of those before the point."""
    return round(number) if number >= 100 else float(f"{number:.3g}")


COMMAND = Command(
    sentence="tell what a training needs: memory, FLOPs, disk and hours, without a GPU",
    examples=(
        "dinoforge plan vitl16_fast --ranks 32 --gpu a100",
        "dinoforge plan vitg14_long --ranks 64 batch_size=768 parallel.mode=hsdp",
        "dinoforge plan my.yaml parallel.activation_checkpointing=blocks --json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
