"""What ``--on slurm:PROFILE`` does, for every command that has it."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoforge.cli.arguments import on_change, print_json
from dinoforge.errors import DinoforgeError, UsageError

if TYPE_CHECKING:
    from dinoforge.config import Loaded
    from dinoforge.slurm.store.layout import State

__all__ = ["goes_to_cluster", "print_state", "refuse_live", "submit"]


def goes_to_cluster(args: argparse.Namespace) -> bool:
    """Tell whether ``--on`` names a cluster.

    Raises
    ------
    UsageError
        If it names no place that the command knows, or a flag fits a cluster alone.
    """
    kind, _, profile = args.on.partition(":")
    if kind == "slurm" and profile:
        return True
    if args.command == "evaluate" and args.on != "in-process":
        raise UsageError(
            what=f"unknown place to run `{args.on}`",
            where="--on",
            do="write in-process or slurm:PROFILE",
        )
    for flag in ("dry_run", "wait"):
        if getattr(args, flag):
            name = flag.replace("_", "-")
            raise UsageError(
                what=f"--{name} fits a cluster alone", where=f"--on {args.on}", do="leave it out"
            )
    return False


def submit(
    args: argparse.Namespace,
    loaded: "Loaded[Any]",
    *,
    pipeline: str = "",
    evaluations: Mapping[str, Any] | None = None,
) -> int:
    """Submit a run, or say what would be submitted; with ``--wait`` wait for its end.

    ``evaluations``: of a training, resolved recipes by which its kept exports are measured.
    """
    from dinoforge.slurm.submit import SubmitRequest
    from dinoforge.slurm.submit import submit as submit_run

    request = SubmitRequest(
        command=args.command,
        config=loaded.config,
        profile=args.on.partition(":")[2],
        pipeline=pipeline,
        origins=loaded.origins,
        change=on_change(args),
        evaluations=evaluations or {},
    )
    if args.dry_run:
        from dinoforge.slurm.dry_run import dry_run

        told = dry_run(request)
        if args.json:
            print_json(told.as_json())
        else:
            print("\n".join(told.lines()))
        return 0
    state = submit_run(request)
    if args.wait and state.state == "running":
        from dinoforge.slurm.control import wait_for_run

        state = wait_for_run(request.run, lambda _: None)
    return print_state(state, Path(loaded.config.out), as_json=args.json)


def print_state(state: "State", run: Path, *, as_json: bool) -> int:
    """Print how a run is; returns the exit code: 0 while there is nothing for a person to do."""
    stopped = state.state in {"stopped", "waiting", "cancelled"}
    if as_json:
        print_json(dict(vars(state)))
    elif not stopped:
        at = f", at {state.stage}" if state.stage else ""
        print(f"{run}: {state.state}{at}")
        if state.state == "running":
            print(f"how it goes: dinoforge status {run}")
    if not stopped:
        return 0
    text = "; ".join(state.why) or state.state
    raise DinoforgeError(f"{text} - {run} - {state.do}")


def refuse_live(run: Path) -> None:
    """Refuse to write to a run whose jobs are in the queue of a cluster.

    Raises
    ------
    UsageError
        If they are, as far as the run's files and the queue tell.
    """
    if os.environ.get("DINOFORGE_JOB"):
        return  # we are that job
    try:
        state = json.loads((run / "slurm" / "state.json").read_text(encoding="utf-8"))["state"]
    except (OSError, ValueError, KeyError):
        return
    if state != "running":
        return
    from dinoforge.slurm.cluster.commands import has_slurm
    from dinoforge.slurm.store.layout import SlurmFolder
    from dinoforge.slurm.submit import is_live

    if not has_slurm() or is_live(SlurmFolder(run.absolute())):
        raise UsageError(
            what="jobs of a cluster work on this run",
            where=str(run),
            do=f"wait for them, or end them first: dinoforge cancel {run}",
        )
