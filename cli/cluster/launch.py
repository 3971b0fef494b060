"""``--on slurm:PROFILE``, for every command that has it."""

import argparse
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
    """Return whether ``--on`` names a cluster.

    Raises a `UsageError` if a flag works only with a cluster.
    """
    kind, _, profile = args.on.partition(":")
    if kind == "slurm" and profile:
        return True
    for flag, is_given in (("--dry-run", args.dry_run), ("--wait", args.wait)):
        if is_given:
            raise UsageError(
                what=f"{flag} works only with --on slurm:PROFILE",
                where=f"--on {args.on}",
                do="leave it out",
            )
    return False


def submit(
    args: argparse.Namespace, loaded: "Loaded[Any]", pipeline: str, evaluations: Mapping[str, Any]
) -> int:
    """Submit a run, or print what would be submitted; with ``--wait`` wait for its end.

    ``pipeline`` and ``evaluations`` are those of `RecipeCommand`.
    """
    from dinoforge.slurm.submit import SubmitRequest, dry_run
    from dinoforge.slurm.submit import submit as submit_run

    request = SubmitRequest(
        command=args.command,
        config=loaded.config,
        profile=args.on.partition(":")[2],
        pipeline=pipeline,
        origins=loaded.origins,
        change=on_change(args),
        evaluations=evaluations,
    )
    if not args.dry_run:
        state = submit_run(request)
        return print_state(state, Path(loaded.config.out), wait=args.wait, as_json=args.json)
    plan = dry_run(request)
    if args.json:
        print_json(vars(plan))
    else:
        print("\n".join(plan.lines()))
    return 0


def print_state(state: "State", run: Path, *, wait: bool, as_json: bool) -> int:
    """Print the state of a run, with ``wait`` that at its end; returns the exit code.

    Raises a `DinoforgeError` if the run stopped and the user has to do something.
    """
    if wait and state.state == "running":
        from dinoforge.slurm.control import wait_for_run

        state = wait_for_run(run)
    stopped = state.state in {"stopped", "waiting", "cancelled"}
    if as_json:
        print_json(vars(state))
    elif not stopped:
        print_headline(state, run)
        if state.state == "finished":
            print_account(run)
        if state.state == "running":
            from dinoforge.config.paths import quote_path

            print(f"check progress: dinoforge status {quote_path(run)}")
    if not stopped:
        return 0
    raise DinoforgeError(f"{'; '.join(state.why) or state.state} - {run} - {state.do}")


def print_headline(state: "State", run: Path) -> None:
    """Print the state of a run, and its stage."""
    print(f"{run}: {state.state}" + (f", at {state.stage}" if state.stage else ""))


def print_account(run: Path) -> None:
    """Print what the sources of a run gave, if it is recorded."""
    from dinoforge.runs import read_facts
    from dinoforge.sources.accounting import Account

    if account := Account.recorded(read_facts(run)):
        print("\n".join(account.lines()))


def refuse_live(run: Path) -> None:
    """Raise a `UsageError` if jobs that write to a run are in the queue of a cluster.

    That is what the files of the run and the queue show.
    """
    if os.environ.get("DINOFORGE_JOB"):
        return  # this process is that job
    from dinoforge.config.paths import quote_path
    from dinoforge.slurm.store.layout import SlurmFolder

    folder = SlurmFolder(run.absolute())
    state = folder.read_state()
    if state is None or state.state != "running":
        return
    from dinoforge.slurm.cluster.commands import has_slurm
    from dinoforge.slurm.control import is_live

    if not has_slurm() or is_live(folder):
        raise UsageError(
            what="jobs on a cluster are writing to this run",
            where=str(run),
            do=f"wait for them, or cancel them first: dinoforge cancel {quote_path(run)}",
        )
