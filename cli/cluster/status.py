"""``dinoforge status``: progress of a run on a cluster, from its files and the queue."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dinoforge.cli.arguments import Command, add_run_argument, print_json, print_table

if TYPE_CHECKING:
    from dinoforge.slurm.status import RunStatus

__all__ = ["COMMAND"]


def _run(args: argparse.Namespace) -> int:
    from dinoforge.cli.cluster.launch import print_account, print_headline
    from dinoforge.slurm.status import read_status

    status = read_status(Path(args.run))
    if args.json:
        print_json(asdict(status))
        return 0
    print_headline(status.state, Path(args.run))
    for line in status.state.why:
        print(f"  why: {line}")
    if status.state.do:
        print(f"  do:  {status.state.do}")
    rows = [
        [s.name, s.total, s.done, s.running, s.failed, s.pending] for s in status.stages if s.total
    ]
    if rows:
        unit = "partitions" if status.command != "train" else "steps"
        print_table(["stage", unit, "done", "running", "failed", "pending"], rows)
    for line in (*_scores(status), *_details(status)):
        print(line)
    print_account(Path(args.run))
    return 0


def _scores(status: "RunStatus") -> Iterator[str]:
    """Yield the trained network's headline score for the newest step of each evaluation."""
    from dinoforge.evaluation.scores import headline
    from dinoforge.records import read_records

    for stage in status.stages:
        scores = headline(read_records(Path(stage.records))) if stage.records else None
        for best in scores.best if scores else []:
            if best.model == "trained":
                k, features = best.settings.get("k"), best.settings.get("features")
                yield (
                    f"{stage.name}: step {stage.step}: {best.benchmark} {best.value:.4f}, k = {k}, "
                    f"{features}"
                )


def _details(status: "RunStatus") -> Iterator[str]:
    from dinoforge.progress import as_duration

    if not status.asked_slurm:
        yield "SLURM does not answer: status from files only"
    elif status.jobs:
        jobs = ", ".join(f"{count} {state.lower()}" for state, count in status.jobs.items())
        yield f"jobs: {jobs}"
    for line in status.stuck:
        yield f"never starts: {line}"
    if status.rate_per_min is not None and status.left_s is not None:
        yield f"{status.rate_per_min:g} partitions per minute, {as_duration(status.left_s)} left"
    for failure in status.failures:
        yield f"{failure.where}: {failure.outcome}: {failure.message} - {failure.advice}"
    if status.last_line:
        yield f"last: {status.last_line}"


COMMAND = Command(
    sentence="print the progress of a run on a cluster: done, running, failed and why, time left",
    examples=("dinoforge status runs/curated", "dinoforge status runs/curated --json"),
    add_arguments=add_run_argument,
    run=_run,
)
