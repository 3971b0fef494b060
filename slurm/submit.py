"""What ``--on slurm:PROFILE`` does with a recipe and a profile: submit a run, or only plan it."""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from dinoforge.config import Config, config_yaml
from dinoforge.config.paths import quote_path
from dinoforge.errors import Fault, UsageError
from dinoforge.files import write_text
from dinoforge.pages.formatting import counted
from dinoforge.runs import OnChange, Run, recipe_changes
from dinoforge.slurm.cluster.commands import SlurmError, has_slurm, need_slurm
from dinoforge.slurm.cluster.executor import Request, sbatch_text
from dinoforge.slurm.cluster.limits import check_jobs, max_array_size, read_partitions
from dinoforge.slurm.control import is_live
from dinoforge.slurm.driver import advance, stage_works
from dinoforge.slurm.jobs import Jobs, Submitter
from dinoforge.slurm.node.probe import probe_nodes
from dinoforge.slurm.profile import Job, Profile, load_profile
from dinoforge.slurm.retries import Limits
from dinoforge.slurm.store.evaluations import Evaluation, check_unchanged, write_recipes
from dinoforge.slurm.store.layout import Launch, SlurmFolder, State
from dinoforge.slurm.store.lease import LeaseBusyError, hold_lease
from dinoforge.slurm.store.snapshot import take_snapshot
from dinoforge.stages import find_pipeline, stage_device, stage_folder

__all__ = ["DryRun", "SubmitRequest", "dry_run", "submit"]

_log = logging.getLogger(__name__)


class _RunConfig(Config, Protocol):
    @property
    def out(self) -> str: ...  # the run folder

    @property
    def device(self) -> str: ...  # that its jobs compute on


@runtime_checkable
class _RunsOnRanks(Protocol):
    def rank_faults(self, num_ranks: int, per_node: int) -> Iterable[Fault]: ...


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """A run that a user wants on a cluster."""

    command: str  # curate, train, evaluate, shard: the kind of run folder
    config: _RunConfig  # the resolved recipe
    profile: str  # path, or the name of a built-in one
    pipeline: str = ""  # import path of a pipeline of stages; "": one job of ranks
    origins: Mapping[str, str] = field(default_factory=dict)  # as in `Run.open`
    change: OnChange = "refuse"  # as in `Run.open`
    # of a training: resolved recipes that evaluate its kept exports, by name
    evaluations: Mapping[str, _RunConfig] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.config.out).absolute()

    def jobs(self, profile: Profile) -> dict[str, Job]:
        """Resources of every job of the run, by name."""
        if self.pipeline:
            stages = find_pipeline(self.pipeline).stages
            devices = {stage.name: stage_device(stage, self.config) for stage in stages}
            return {
                name: profile.job(name, on) for name, on in (devices | {"gate": "gate"}).items()
            }
        jobs = {self.command: profile.job(self.command, self.config.device)}
        for name, config in self.evaluations.items():
            jobs[Evaluation(self.run, name).stage] = profile.job("evaluate", config.device)
        return jobs

    def launch(self) -> Launch:
        """Collect what all jobs of the run share, except for the snapshot; writes nothing."""
        digits = hashlib.sha256(os.fsencode(self.run)).hexdigest()[:6]
        name = re.sub(r"[^a-z0-9]+", "-", self.run.name.lower()).strip("-")[:24] or "run"
        stages: dict[str, str] = {}
        if self.pipeline:
            pipeline = find_pipeline(self.pipeline)
            for stage in pipeline.stages:
                folder = stage_folder(Path(), pipeline.name, stage.number, stage.name)
                stages[stage.name] = str(folder)
        python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        return Launch(
            run_id=f"{name}-{digits}",
            command=self.command,
            pipeline=self.pipeline,
            # Recipes of pipelines that run on CPUs alone have no such key.
            device=str(getattr(self.config, "device", "cpu")),
            stages=stages,
            evaluations=list(self.evaluations),
            folder=str(Path.cwd()),
            python_path=[str(Path(entry).absolute()) for entry in python_path if entry],
            python=sys.executable,
        )

    def check(self, profile: Profile, *, cluster: bool) -> None:
        """Check recipe and profile, with ``cluster`` also against the cluster of this machine.

        Devices are not tried: this machine need not have those of the nodes. Raises a `UsageError`
        with resources that the cluster does not have or that do not suit the recipe, or with
        everything that is wrong with the recipe.
        """
        _refuse(self._path_faults())
        jobs = self.jobs(profile)
        if not self.pipeline:
            _refuse(self._rank_faults(jobs[self.command], profile.signal_before_s))
        if cluster:
            need_slurm()
            self._check_cluster(jobs)
        if self.pipeline:
            try:
                find_pipeline(self.pipeline).check(self.config)
            except ImportError as error:  # a login node may lack packages that the nodes have
                text = "%s is not installed on this machine: a node checks the recipe"
                _log.info(text, error.name)

    def _path_faults(self) -> Iterator[Fault]:
        # With a backslash, SLURM fills in nothing: all elements would share one log, %a.out.
        do = "rename it: a batch script holds no name with a backslash or a line break"
        for name, folder in (("run", self.run), ("working", Path.cwd())):
            if re.search(r"[\\\n\r]", str(folder)):
                yield Fault(f"the {name} folder cannot be named to SLURM", str(folder), do)

    def _rank_faults(self, job: Job, signal_before_s: int) -> Iterator[Fault]:
        # Clusters may request GPUs otherwise, too: by licenses, gres, features.
        by_option = any("gpu" in f"{name}={value}" for name, value in job.sbatch.items())
        if job.device == "cuda" and not job.gpus_per_node and not by_option:
            what = f"`device` is cuda, but the job of {self.command} requests no GPU"
            do = f"set stages.{self.command}.gpus_per_node, or give device=cpu"
            yield Fault(what, self.profile, do)
        if job.device != "cpu" and 0 < job.gpus_per_node < job.tasks_per_node:
            what = f"{job.tasks_per_node} ranks share the {job.gpus_per_node} GPUs of a node"
            do = f"set tasks_per_node: {job.gpus_per_node}, one rank per GPU"
            yield Fault(what, self.profile, do)
        num_nodes, per_node = job.nodes, job.tasks_per_node
        if isinstance(self.config, _RunsOnRanks):
            for fault in self.config.rank_faults(num_nodes * per_node, per_node):
                ranks = f"{num_nodes} x {per_node} ranks of {self.profile}"
                yield replace(fault, where=f"{fault.where}, {ranks}")
        # The signal may come a minute early, and Python has to start.
        if 60 * job.minutes < signal_before_s + 180:
            what = f"{job.minutes} min leave no time to work before the signal to save, "
            what += f"{signal_before_s} s before the end"
            yield Fault(what, self.profile, "raise `minutes`, or lower `signal_before_s`")

    def _check_cluster(self, jobs: Mapping[str, Job]) -> None:
        try:
            _refuse(check_jobs(jobs, read_partitions(), self.profile))
        except SlurmError as error:
            raise UsageError(
                what=f"SLURM does not answer: {error}",
                where="sinfo",
                do="try again; SLURM_CONF must name the configuration of the cluster",
            ) from error


def _refuse(faults: Iterable[Fault]) -> None:
    if listed := list(faults):
        raise UsageError(faults=listed)


def submit(request: SubmitRequest) -> State:
    """Submit a run: its first stage and a gate that continues from there, or its one job of ranks.

    The same call continues a run that stopped, and does nothing to one that is in the queue. Raises
    a `UsageError`, before anything is submitted, with everything that is wrong with profile,
    cluster or recipe.
    """
    profile = load_profile(request.profile)
    request.check(profile, cluster=True)
    folder = SlurmFolder(request.run)
    live = is_live(folder)
    if live and request.change != "refuse":
        raise UsageError(
            what="jobs of this run are in the queue, under the old recipe",
            where=str(request.run),
            do=f"wait for them, or cancel them first: dinoforge cancel {quote_path(request.run)}",
        )
    if request.change == "refuse":
        check_unchanged(request.run, request.evaluations)
    if live and not request.pipeline:
        return _add_evaluations(folder, request)
    with Run.open(
        request.run,
        request.config,
        command=request.command,
        origins=request.origins,
        on_change=request.change,
    ) as opened:
        opened.handed_over = True
        write_recipes(request.run, request.evaluations)
        if live:
            return _advance_live(folder)
        _prepare(folder, request, profile)
        state = advance(request.run)
        opened.handed_over = state.state != "finished"  # else no job is left to hand over to
        return state


def _add_evaluations(folder: SlurmFolder, request: SubmitRequest) -> State:
    """Add evaluation recipes to a run whose job is in the queue and writes to the run folder."""
    if changed := recipe_changes(request.run, request.config):
        keys = ", ".join(f"`{key}`" for key in changed)
        raise UsageError(
            what=f"a job of this run is in the queue, under another recipe: {keys}",
            where=str(request.run),
            do=f"wait for it, or cancel it first: dinoforge cancel {quote_path(request.run)}",
        )
    write_recipes(request.run, request.evaluations)
    launch = folder.read_launch()
    names = list(dict.fromkeys([*launch.evaluations, *request.evaluations]))
    if names != launch.evaluations:
        folder.write_launch(replace(launch, evaluations=names))
    return _advance_live(folder)


def _advance_live(folder: SlurmFolder) -> State:
    try:
        return advance(folder.run, wait_s=10.0)
    except LeaseBusyError:  # a job is advancing the run
        return folder.read_state() or State(state="running")


def _prepare(folder: SlurmFolder, request: SubmitRequest, profile: Profile) -> None:
    """Write what the jobs need, and check on nodes that they can run."""
    write_text(folder.profile, config_yaml(profile))
    launch = request.launch()
    if profile.snapshot:
        launch = replace(launch, snapshot=str(take_snapshot(folder.snapshots)))
    folder.write_launch(launch)
    folder.submissions.retry()
    if profile.probe:
        jobs = Jobs(folder, launch, profile)
        with hold_lease(folder.lease) as lease:
            probe_nodes(jobs, Submitter(jobs, lease), request.jobs(profile).values())
    folder.write_state(State(state="running"))


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a submission would do."""

    checked: bool  # against the cluster; False on a machine without SLURM
    graph: list[dict[str, str]]  # one row per stage, in order
    scripts: dict[str, str]  # job name -> batch script

    def lines(self) -> Iterator[str]:
        """Format it for a terminal."""
        yield "checked against the cluster" if self.checked else "no SLURM here: not checked"
        for row in self.graph:
            yield f"\n{row['stage']}: {row['asks']}"
            yield f"  {row['jobs']}"
        for name, text in self.scripts.items():
            yield f"\n--- {name}"
            yield text.rstrip()


def dry_run(request: SubmitRequest) -> DryRun:
    """Check a request, and plan its jobs without submitting any; raises what `submit` does."""
    profile, checked = load_profile(request.profile), has_slurm()
    request.check(profile, cluster=checked)
    jobs = Jobs(SlurmFolder(request.run), request.launch(), profile)
    plan = _plan_stages if request.pipeline else _plan_ranks
    texts: dict[str, str] = {}
    scripts: dict[str, str] = {}
    for stage, text, first_jobs in plan(request, jobs):
        texts[stage] = text
        scripts |= {job.name: sbatch_text(job) for job in first_jobs}
    later = "planned by the gate before"
    graph = [
        {"stage": name, "asks": _resources(job), "jobs": texts.get(name, later)}
        for name, job in request.jobs(profile).items()
        if name != "gate"
    ]
    return DryRun(checked=checked, graph=graph, scripts=scripts)


# Name of a stage, how many jobs it has, and the first of them.
_Planned = tuple[str, str, Sequence[Request]]


def _plan_ranks(request: SubmitRequest, jobs: Jobs) -> Iterator[_Planned]:
    for stage, job in request.jobs(jobs.profile).items():
        if stage == request.command:
            ranks = counted(job.nodes * job.tasks_per_node, "rank")
            text = f"one job of {ranks}, requeued until it is done"
            yield stage, text, [jobs.ranks(jobs.name(stage, 0), job)]
        else:
            text = "one job per backbone that is kept, submitted while the training runs"
            yield stage, text, [jobs.array(jobs.name(stage, "STEP"), job, 1)]


def _plan_stages(request: SubmitRequest, jobs: Jobs) -> Iterator[_Planned]:
    array_size = max_array_size() if has_slurm() else 1001
    for work in stage_works(jobs.profile, request.pipeline, request.run, request.config):
        stage, missing, done = work.stage, len(work.missing), work.progress
        if not missing:
            yield stage, f"done: {counted(done, 'partition')}", []
            continue
        limits = dict.fromkeys(work.missing, Limits(work.job.memory_gb, work.job.minutes))
        sizes = [part.elements for part in work.plans(limits, array_size)]
        are_done = f" ({done} are done)" if done else ""
        listed = ", ".join(map(str, sizes[:8])) + (" ..." if len(sizes) > 8 else "")
        text = (
            f"{counted(missing, 'partition')}{are_done} in {counted(len(sizes), 'array')} of "
            f"{listed} elements, then a gate after all of them"
        )
        after = [f"ARRAY{number}" for number in range(len(sizes))]
        array = jobs.array(jobs.name(stage, 0), work.job, sizes[0])
        yield stage, text, [array, jobs.gate(jobs.name(stage, "gate"), after)]
        return  # later stages are planned from the outputs of this one


def _resources(job: Job) -> str:
    parts = [job.partition or "default partition"]
    if job.nodes * job.tasks_per_node > 1:
        parts.append(f"{job.nodes} x {job.tasks_per_node} tasks")
    parts.append(counted(job.cpus_per_task, "CPU"))
    if job.gpus_per_node:
        parts.append(f"{counted(job.gpus_per_node, 'GPU')} per node")
    parts += [f"{job.memory_gb:g} GB", f"{job.minutes} min"]
    if job.partitions_per_element > 1:
        parts.append(f"{job.partitions_per_element} partitions per element")
    return ", ".join(parts)
