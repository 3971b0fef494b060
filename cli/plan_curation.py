"""The part of ``dinoforge plan`` that plans curations, and compares their tasks with a profile."""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import load, print_json, print_table
from dinoforge.errors import UsageError

if TYPE_CHECKING:
    from dinoforge.curation.config import CurationConfig
    from dinoforge.curation.plan import CurationPlan, Images
    from dinoforge.device import Gpu
    from dinoforge.models.config import VitConfig

__all__ = ["plan_curation_of"]

_ROLES = ("pool", "seed", "reference", "as_is")


def plan_curation_of(
    args: argparse.Namespace,
    images: int | dict[str, int] | None,
    gpu: "Gpu",
    model: "VitConfig | None",
) -> int:
    """Print the plan of a curation of so many images, a number or one by role."""
    from dinoforge.curation.config import CurationConfig
    from dinoforge.curation.plan import GPU_SHARE, Images, plan_curation, read_trial

    # A plan needs no image: the sources are named when it is run.
    overrides = args.overrides
    if not any(text.startswith("sources") for text in overrides) and not _has_sources(args.recipe):
        args.overrides = [*overrides, *_stand_ins(images)]
    config = load(args, "curation", CurationConfig).config
    share = args.mfu or GPU_SHARE
    trial = None if args.trial is None else read_trial(Path(args.trial))
    means = trial.images if trial else Images(pool=0)
    counted = _images(args, config, images, means)
    plan = plan_curation(config, counted, gpu=gpu, share=share, model=model, trial=trial)
    if not args.json:
        _show(plan, gpu.name, share)
        rates = f"corrected by {args.trial}" if trial else "rates of one core of an EPYC"
        print(f"assumes that no image is dropped before retrieval; {rates}")
    if args.on is not None:
        _check_profile(plan, config, args.on)
    if args.json:
        print_json(plan.as_json())
    return 0


def _has_sources(recipe: str) -> bool:
    from dinoforge.config import find_recipe

    lines = find_recipe("curation", recipe).read_text(encoding="utf-8").splitlines()
    return any(line.startswith("sources:") for line in lines)


def _stand_ins(images: int | dict[str, int] | None) -> list[str]:
    roles = set(images) & set(_ROLES) if isinstance(images, dict) else ()
    sources = ", ".join(f"{{role: {role}, paths: [.]}}" for role in ["pool", *{*roles} - {"pool"}])
    return [f"sources=[{sources}]"]


def _images(
    args: argparse.Namespace,
    config: "CurationConfig",
    given: int | dict[str, int] | None,
    means: "Images",
) -> "Images":
    from dinoforge.curation.stored.side_tables import count_rows

    expected = Counter[tuple[str, str]]()  # by the recipe
    for source in config.sources:
        expected[source.role, source.label] += source.images
    if given is None and not expected.total():
        do = "give --images N, or by role or source: --images pool=N,seed=N,reference=N,as_is=N"
        raise UsageError(what="no number of images", where="command line", do=do)
    role_of = {role: role for role in _ROLES}
    role_of |= {source.name: source.role for source in config.sources if source.name}
    counts = {role: dict[str, int]() for role in _ROLES}
    numbers = {"pool": given} if isinstance(given, int) else given or {}
    for name, number in numbers.items():
        if name not in role_of:
            do = f"give some of {', '.join(role_of)}"
            raise UsageError(what=f"no role or source `{name}`", where="--images", do=do)
        if number < 0:
            raise UsageError(what=f"{name}={number}", where="--images", do="give 0 or more")
        counts[role_of[name]][name] = number
    for (role, name), number in expected.items():
        if number and not {role, name} & numbers.keys():
            counts[role][name] = number
    pool = sum(counts["pool"].values())
    if not pool + sum(counts["as_is"].values()):
        raise UsageError(what="no images to curate", where="--images", do="give pool=N")
    rows, columns = count_rows(config)
    return replace(
        means,
        pool=pool,
        as_is=counts["as_is"],
        seeds=counts["seed"],
        references=counts["reference"],
        side_rows=rows,
        side_columns=columns or means.side_columns,
        **_means(args),
    )


def _means(args: argparse.Namespace) -> dict[str, float]:
    """Read the mean size of the images, as far as it is given."""
    means = {"file_bytes": args.image_bytes, "pixels": args.image_pixels}
    for name, value in means.items():
        if value is not None and value <= 0:
            option = "--image-bytes" if name == "file_bytes" else "--image-pixels"
            raise UsageError(what=f"{option} {value:g}", where="command line", do="give 1 or more")
    return {name: value for name, value in means.items() if value is not None}


def _show(plan: "CurationPlan", gpu: str, share: float) -> None:
    rows: list[list[object]] = [
        [
            stage.stage,
            stage.partitions,
            hours(stage.core_hours),
            hours(stage.gpu_hours),
            hours(stage.host_hours),
            short(stage.bytes / 1e9),
            stage.files,
            short(stage.task_bytes / 1e9),
        ]
        for stage in plan.stages
    ]
    names = ["stage", "partitions", "core-hours", f"or {gpu}-hours", "+ core-hours"]
    print_table([*names, "GB", "files", "GB per task"], rows)
    images = sum(plan.images.values())
    join = "all images compared"
    if plan.cells:
        join = f"join by {plan.cells:,} cells, {plan.cells_per_image} per image"
    print(f"{images:,} images, {join}; {plan.exported:,} exported in {plan.shards:,} shards")
    totals = plan.as_json()["totals"]
    host = hours(sum(stage.host_hours for stage in plan.stages))
    on_cores = hours(_sum([stage.core_hours for stage in plan.stages]))
    on_gpus = hours(_sum([stage.gpu_hours for stage in plan.stages]))
    print(
        f"{totals['partitions']:,} partitions, {short(totals['bytes'] / 1e9)} GB in "
        f"{totals['files']:,} files; {on_cores} core-hours, or {on_gpus} {gpu}-hours and "
        f"{host} core-hours at an assumed MFU of {share} of the float32 rate"
    )


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def hours(value: float | None) -> str:
    """Write hours; a dash if they are unknown."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def short(number: float) -> str:
    """Write three significant digits, or a whole number above 100."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _check_profile(plan: "CurationPlan", config: "CurationConfig", on: str) -> None:
    """Raise one error that names the stages whose tasks do not fit a profile."""
    from dinoforge.curation.pipeline import STAGES
    from dinoforge.slurm.profile import load_profile
    from dinoforge.stages import stage_device

    kind, _, name = on.partition(":")
    if kind != "slurm" or not name:
        raise UsageError(what=f"--on {on}", where="command line", do="give slurm:PROFILE")
    profile = load_profile(name)
    devices = {stage.name: stage_device(stage, config) for stage in STAGES}
    misfits, largest = [], (0.0, 0.0)
    for stage in plan.stages:
        device = devices[stage.stage]
        job = profile.job(stage.stage, device)
        minutes = 60 * (stage.task_hours or 0.0)
        if device != "cpu" and stage.gpu_hours is not None:
            minutes = 60 * max(stage.gpu_hours, stage.host_hours / job.cpus_per_task)
            minutes /= stage.partitions
        memory = stage.task_bytes / 1e9
        needs = [f"{short(memory)} GB"] * (memory > job.memory_gb)
        needs += [f"{short(minutes)} min"] * (minutes > job.minutes)
        if needs:
            misfits.append(f"{stage.stage} ({', '.join(needs)})")
            largest = max(largest[0], memory), max(largest[1], minutes)
    if misfits:
        what = f"tasks that do not fit: {', '.join(misfits)}"
        do = "raise `memory_gb` or `minutes` of these stages in the profile, or curate in parts"
        raise UsageError(what=what, where=f"profile {name}", do=do)
