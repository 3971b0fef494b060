"""``dinoforge plan``: what a curation, a training, an evaluation or an index needs."""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import tempfile
from pathlib import Path
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
from dinoforge.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dinoforge.evaluation.plan import Extraction
    from dinoforge.models.config import VitConfig
    from dinoforge.training.plan import Plan

__all__ = ["COMMAND", "kind_of"]

_DEFAULT_GPU = "h100"
_KINDS = ("training", "evaluation", "curation", "index")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_choice(parser)
    kind = "kind of the recipe (default: by its name or its keys)"
    parser.add_argument("--kind", choices=_KINDS, help=kind)
    model = (
        "evaluation: plan for this ViT instead of the recipe's models, e.g. large/16; curation: "
        "instead of the encoder for retrieval; index: default small/14"
    )
    parser.add_argument("--model", metavar="SIZE/PATCH", help=model)
    hardware = parser.add_argument_group("hardware")
    add = functools.partial(hardware.add_argument, type=int, metavar="N")
    add("--ranks", help="training: processes, one per GPU (default 1)")
    per_node = (
        "training: ranks per machine (default 8); parallel.shard=0 means this number under hsdp"
    )
    add("--ranks-per-node", help=per_node)
    gpus = "a100-40, a100, h100 (default), h200, l40s, or GB of memory"
    gpu = f"{gpus}; if given, a plan that does not fit is an error"
    add("--gpu", type=str, metavar="GPU", help=gpu)
    mfu = "assumed MFU (0 to 1); default: the closest published run; 0.4 if it is no training"
    add("--mfu", type=float, metavar="SHARE", help=mfu)
    images = (
        "images in the data set, for epochs; of a mixture NAME=N,NAME=N; evaluation: in each set, "
        "which need not exist yet; curation: of the pool, or pool=N,seed=N,reference=N,as_is=N "
        "(default: `sources.images`); index: of the collection"
    )
    add("--images", type=str, help=images)
    data = parser.add_argument_group("curation")
    mean = "mean size of an image file (default 110,000, as ImageNet's)"
    data.add_argument("--image-bytes", type=float, metavar="BYTES", help=mean)
    mean = "mean pixels of an image (default 186,045, as ImageNet's)"
    data.add_argument("--image-pixels", type=float, metavar="PIXELS", help=mean)
    trial = (
        "finished curation of a sample of these images, on the same kind of machine: its sizes, "
        "CPU seconds and bytes correct the plan"
    )
    data.add_argument("--trial", metavar="RUN", help=trial)
    on = "a profile, as slurm:PROFILE; tasks that do not fit it are an error"
    data.add_argument("--on", metavar="WHERE", help=on)
    add_output_arguments(parser)


def _run(args: argparse.Namespace) -> int:
    kind = args.kind or kind_of(args.recipe)
    if recipe_requests(args, kind):
        return 0
    _refuse_options(args, kind)
    plan = {
        "evaluation": _plan_evaluation,
        "curation": _plan_curation,
        "training": _plan_training,
        "index": _plan_index,
    }
    return plan[kind](args)


def _refuse_options(args: argparse.Namespace, kind: str) -> None:
    """Refuse options that only other kinds of plans have."""
    of_training, of_curation = (
        ("ranks", "ranks_per_node"),
        ("image_bytes", "image_pixels", "trial", "on"),
    )
    others = {
        "evaluation": (*of_training, *of_curation),
        "training": ("model", *of_curation),
        "curation": of_training,
        "index": (*of_training, *of_curation),
    }
    for name in others[kind]:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            what = f"{option} has no meaning for a recipe of kind {kind}"
            raise UsageError(what=what, where="command line", do=f"remove {option}")


def kind_of(recipe: str | None) -> str:
    """Return the kind of a recipe by its name, or by the keys that only one kind has."""
    from dinoforge.cli.arguments import config_class
    from dinoforge.config import find_recipe, list_recipes

    if recipe is None or recipe in list_recipes("training") or "=" in recipe:
        return "training"
    named = [(name, kind) for kind in _KINDS for name in list_recipes(kind)]
    for name, kind in named:
        if recipe == name:
            return kind
    with contextlib.suppress(UsageError, OSError, UnicodeDecodeError):
        lines = find_recipe("training", recipe).read_text(encoding="utf-8").splitlines()
        keys = {line.partition(":")[0] for line in lines}
        names = {k: {f.name for f in dataclasses.fields(config_class(k))} for k in _KINDS}
        only = {
            kind: known.difference(*(names[k] for k in _KINDS if k != kind))
            for kind, known in names.items()
        }
        kinds = [kind for kind in _KINDS if keys & only[kind]]
        if len(kinds) == 1:
            return kinds[0]
    near = difflib.get_close_matches(recipe, [name for name, _ in named], n=1)
    return next((kind for name, kind in named if name in near), "training")


def _read_images(text: str | None) -> int | dict[str, int] | None:
    """Read ``--images``: a number, or one by part."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return _whole(text)
        pairs = (pair.rpartition("=") for pair in text.split(","))
        return {name: _whole(count) for name, _, count in pairs}
    except ValueError as error:
        do = "give a whole number, or NAME=N,NAME=N"
        raise UsageError(what=f"cannot read `{text}`", where="--images", do=do) from error


def _whole(text: str) -> int:
    """Read a whole number, also as 1.3e9; raises `ValueError`."""
    number = float(text) if "e" in text.lower() else int(text)
    if number != number // 1:
        raise ValueError(text)
    return int(number)


def _plan_curation(args: argparse.Namespace) -> int:
    from dinoforge.cli.plan_curation import plan_curation_of
    from dinoforge.device import find_gpu

    _check_mfu(args)
    gpu, model = find_gpu(args.gpu or _DEFAULT_GPU), _vit(args.model) if args.model else None
    return plan_curation_of(args, _read_images(args.images), gpu, model)


def _check_mfu(args: argparse.Namespace) -> None:
    if args.mfu is not None and not 0 < args.mfu <= 1:
        raise UsageError(what=f"--mfu {args.mfu}", where="command line", do="give 0 < MFU <= 1")


def _plan_evaluation(args: argparse.Namespace) -> int:
    from dinoforge.device import find_gpu
    from dinoforge.evaluation.config import EvaluationConfig, named_sets
    from dinoforge.evaluation.plan import GPU_SHARE, count_images, plan_extraction

    config = load(args, "evaluation", EvaluationConfig).config
    given = _read_images(args.images)
    if isinstance(given, dict):
        what, do = "numbers by name are for the parts of a training", "give one number: --images N"
        raise UsageError(what=what, where=f"--images {args.images}", do=do)
    _check_mfu(args)
    if given is not None and given <= 0:
        raise UsageError(what=f"--images {given}", where="command line", do="give 1 or more")
    if given is None:
        with tempfile.TemporaryDirectory() as unpacked:
            images = count_images(config, Path(unpacked))
    else:
        images = dict.fromkeys(named_sets(config), given)
    gpu = find_gpu(args.gpu or _DEFAULT_GPU)
    plans = plan_extraction(
        config,
        images,
        gpu=gpu,
        share=args.mfu or GPU_SHARE,
        vit=_vit(args.model) if args.model else None,
    )
    if args.json:
        print_json([plan.as_json() for plan in plans])
    else:
        _show_extraction(plans, gpu.name, args.mfu or GPU_SHARE)
        if config.leakage.curation:
            print("not included: the search for leaked images, which encodes the training images")
    return 0


def _plan_index(args: argparse.Namespace) -> int:
    from dinoforge.demo.index.config import IndexConfig
    from dinoforge.demo.index.plan import GPU_SHARE, plan_index
    from dinoforge.device import find_gpu

    args.overrides = ["sources=[x]", *args.overrides]  # a plan needs no image
    if args.recipe is None:
        args.recipe, args.overrides = args.overrides[0], args.overrides[1:]
    config = load(args, "index", IndexConfig).config
    images = _read_images(args.images)
    if not isinstance(images, int) or images < 1:
        do = "give their number: --images 5000000"
        raise UsageError(what="the number of images is unknown", where="--images", do=do)
    _check_mfu(args)
    gpu, share = find_gpu(args.gpu or _DEFAULT_GPU), args.mfu or GPU_SHARE
    plan = plan_index(config, images, _vit(args.model or "small/14"), gpu, share=share)
    if args.json:
        print_json(plan.as_json())
        return 0
    print_table(["on disk", "GB"], [[name, _gb(size)] for name, size in plan.bytes.items()])
    rows = [[name, plan.kinds[name], _gb(size)] for name, size in plan.memory.items()]
    print_table(["memory of a search", "kind", "GB"], rows)
    hours = "unknown" if plan.gpu_hours is None else f"{plan.gpu_hours:,.1f}"
    print(
        f"{plan.images:,} images, {plan.partitions:,} partitions, {plan.files:,} files, "
        f"{_gb(sum(plan.bytes.values()))} GB; {hours} {gpu.name}-hours at an assumed MFU of "
        f"{share} ({config.precision}), or {plan.core_hours:,.0f} "
        "core-hours in float32; without decoding"
    )
    return 0


def _vit(text: str) -> "VitConfig":
    from dinoforge.models.config import ARCHITECTURES, VitConfig

    size, _, patch = text.partition("/")
    if size in ARCHITECTURES and patch in {"8", "14", "16"}:
        return VitConfig.named(size, patch_size=int(patch))
    do = f"give one of {', '.join(ARCHITECTURES)}, then /8, /14 or /16, as large/16"
    raise UsageError(what=f"unknown model `{text}`", where="--model", do=do)


def _show_extraction(plans: "Sequence[Extraction]", gpu: str, mfu: float) -> None:
    def hours(value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"

    rows: list[list[object]] = [
        [
            plan.data,
            plan.model,
            plan.output,
            plan.images,
            plan.partitions,
            _gb(plan.bytes),
            hours(plan.gpu_hours),
            hours(plan.core_hours),
            hours(plan.decode_core_hours),
        ]
        for plan in plans
    ]
    names = ("data", "model", "output", "images", "partitions", "GB")
    print_table([*names, f"{gpu}-hours", "or core-hours", "decoding, core-hours"], rows)
    total = sum(plan.bytes for plan in plans)
    known = [plan.gpu_hours for plan in plans if plan.gpu_hours is not None]
    at_least = "at least " if known and len(known) < len(plans) else ""
    needed = f"{at_least}{hours(sum(known) if known else None)} {gpu}-hours"
    print(
        f"{sum(plan.partitions for plan in plans):,} partitions, {_gb(total)} GB, "
        f"{needed} at an assumed MFU of {mfu} of the float32 rate"
    )
    print("extraction only, one copy of the features; assumes images as large as ImageNet's")


def _plan_training(args: argparse.Namespace) -> int:
    from dinoforge.training.config import TrainingConfig
    from dinoforge.training.data.curated_parts import count_published, resolve_parts
    from dinoforge.training.plan import plan_of

    config = load(args, "training", TrainingConfig).config
    images, published = _read_images(args.images), count_published(config)
    if published and not isinstance(images, int):
        images = published | (images or {})
    plan = plan_of(
        resolve_parts(config),
        1 if args.ranks is None else args.ranks,
        ranks_per_node=8 if args.ranks_per_node is None else args.ranks_per_node,
        gpu=args.gpu or _DEFAULT_GPU,
        mfu=args.mfu,
        images_in_set=images,
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
    teacher = " and as many of the teacher" if plan.memory.teacher else ""
    print(f"rank 0 holds {held:,} parameters of the student{teacher}")


def _show_parameters(plan: "Plan") -> None:
    rows: list[list[object]] = [[name, number] for name, number in plan.parameters.items()]
    same = "; the teacher has the same" if plan.memory.teacher else ""
    rows.append([f"student{same}", sum(plan.parameters.values())])
    print_table(["network", "parameters"], rows)
    if plan.backbone_at_518:
        print(f"backbone as released, for 518 pixels: {plan.backbone_at_518:,} parameters")


def _show_memory(plan: "Plan") -> None:
    memory = plan.memory
    parts = {
        "student, float32": memory.student,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
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
    for name, passes in plan.passes.items():
        rows[f"passes over part {name}"] = f"{passes:,.1f}"
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
    beside = f" beside {plan.support_crops} crops of labeled ones" if plan.support_crops else ""
    largest = f"at most {most} images per rank" if most else f"not even one image fits{beside}"
    return f"{verdict} {plan.gpu.name}: {memory}; {largest}"


def _gb(size: float) -> int | float:
    return _round(size / 1e9)


def _round(number: float) -> int | float:
    """Round to three significant digits, or to a whole number above 100."""
    return round(number) if number >= 100 else float(f"{number:.3g}")


COMMAND = Command(
    sentence="print what a run needs: memory, FLOPs, disk and hours, or partitions of a curation",
    examples=(
        "dinoforge plan vitl16_fast --ranks 32 --gpu a100",
        "dinoforge plan vitg14_long --ranks 64 batch_size=768 parallel.mode=hsdp",
        "dinoforge plan precise --images 1.3e9 --gpu h100",
        "dinoforge plan millions --images 5e6 memory=8",
        "dinoforge plan my.yaml parallel.activation_checkpointing=blocks --json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
