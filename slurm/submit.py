"""Submit a run: what ``--on slurm:PROFILE`` does with a recipe and a profile."""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinoforge.config import config_yaml
from dinoforge.errors import Fault, UsageError
from dinoforge.files import write_text
from dinoforge.runs import OnChange, Run, recipe_changes
from dinoforge.slurm.cluster.commands import SlurmError, need_slurm, queue
from dinoforge.slurm.cluster.limits import check_jobs, read_partitions
from dinoforge.slurm.driver import advance
from dinoforge.slurm.jobs import Jobs, command_job, one_process
from dinoforge.slurm.node.probe import probe_nodes
from dinoforge.slurm.profile import Job, Profile, load_profile
from dinoforge.slurm.store.evaluations import Evaluation, check_unchanged, write_recipes
from dinoforge.slurm.store.layout import Launch, SlurmFolder, State
from dinoforge.slurm.store.lease import LeaseBusyError, hold_lease
from dinoforge.slurm.store.snapshot import take_snapshot
from dinoforge.slurm.store.submissions import Submissions
from dinoforge.slurm.submission import Submitter
from dinoforge.stages import find_pipeline, make_inputs, stage_kind

__all__ = ["SubmitRequest", "draft_launch", "is_live", "submit"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """A run that a user wants on a cluster."""

    command: str  # curate, train, evaluate: the kind of run folder
    config: Any  # the resolved recipe; ``config.out`` is the run folder
    profile: str  # path, or the name of a built-in one
    pipeline: str = ""  # import path of a pipeline of stages; "": one job of ranks
    origins: Mapping[str, str] = field(default_factory=dict)  # as in `Run.open`
    change: OnChange = "refuse"  # as in `Run.open`
    # of a training: resolved recipes that evaluate its kept exports, by name
    evaluations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.config.out).absolute()

    @property
    def devices(self) -> dict[str, str]:
        """Device that each job computes on, by name of the job."""
        device = _device(self.config)
        if self.pipeline:
            return {
                stage.name: "cpu" if stage_kind(stage, self.config) == "cpu" else device
                for stage in find_pipeline(self.pipeline).stages
            }
        evaluations = {
            Evaluation(self.run, name).stage: _device(config)
            for name, config in self.evaluations.items()
        }
        return {self.command: device} | evaluations

    def jobs(self, profile: Profile) -> dict[str, Job]:
        """Resources of every job of the run, by name."""
        if not self.pipeline:
            return {
                name: command_job(profile, self.command if name == self.command else "evaluate", on)
                for name, on in self.devices.items()
            }
        jobs = {
            name: one_process(profile.job(name, "cpu" if device == "cpu" else "gpu"))
            for name, device in self.devices.items()
        }
        return jobs | {"gate": profile.job("gate", "gate")}

    def check(self, profile: Profile, *, cluster: bool) -> None:
        """Check recipe and profile, with ``cluster`` also against the cluster of this machine.

        Devices are not tried: this machine need not have those of the nodes.

        Raises
        ------
        UsageError
            Resources that the cluster does not have or that do not suit the recipe, and everything
            that is wrong with the recipe.
        """
        jobs = self.jobs(profile)
        if not self.pipeline:
            self._check_ranks(jobs[self.command])
        if cluster:
            need_slurm()
            self._check_cluster(jobs)
        if not self.pipeline:
            _check_time(profile, jobs[self.command].minutes, self.profile)
            return
        try:
            find_pipeline(self.pipeline).check(self.config)
        except ImportError as error:  # a login node may lack packages that the nodes have
            _log.info("%s is not installed on this machine: a node checks the recipe", error.name)

    def _check_ranks(self, job: Job) -> None:
        if faults := list(_gpu_faults(_device(self.config), job, self.command, self.profile)):
            raise UsageError(faults=faults)
        if self.command != "train":
            return
        try:
            self.config.check_ranks(job.nodes * job.tasks_per_node, job.tasks_per_node)
        except UsageError as error:
            ranks = f"{job.nodes} x {job.tasks_per_node} ranks of {self.profile}"
            faults = [replace(fault, where=f"{fault.where}, {ranks}") for fault in error.faults]
            raise UsageError(faults=faults) from error

    def _check_cluster(self, jobs: Mapping[str, Job]) -> None:
        try:
            faults = check_jobs(jobs, read_partitions(), self.profile)
        except SlurmError as error:
            raise UsageError(
                what=f"SLURM does not answer: {error}",
                where="sinfo",
                do="try again; SLURM_CONF must name the configuration of the cluster",
            ) from error
        if faults:
            raise UsageError(faults=faults)


def _device(config: Any) -> str:
    return str(getattr(config, "device", "auto"))


def _gpu_faults(device: str, job: Job, command: str, profile: str) -> Iterator[Fault]:
    # Clusters may request GPUs otherwise, too: by licenses, gres, features.
    by_option = any("gpu" in f"{name}={value}" for name, value in job.sbatch.items())
    if device == "cuda" and not job.gpus_per_node and not by_option:
        what = f"`device` is cuda, but the job of {command} requests no GPU"
        yield Fault(what, profile, f"set stages.{command}.gpus_per_node, or give device=cpu")
    if device != "cpu" and 0 < job.gpus_per_node < job.tasks_per_node:
        what = f"{job.tasks_per_node} ranks share the {job.gpus_per_node} GPUs of a node"
        yield Fault(what, profile, f"set tasks_per_node: {job.gpus_per_node}, one rank per GPU")


def _check_time(profile: Profile, minutes: int, where: str) -> None:
    # The signal may come a minute early, and Python has to start.
    if 60 * minutes < profile.signal_before_s + 180:
        raise UsageError(
            what=f"{minutes} min leave no time to work before the signal to save, "
            f"{profile.signal_before_s} s before the end",
            where=where,
            do="raise `minutes`, or lower `signal_before_s`",
        )


def submit(request: SubmitRequest) -> State:
    """Submit a run: its first stage and a gate that continues from there, or its one job of ranks.

    The same call continues a run that stopped, and does nothing to one that is in the queue.

    Raises
    ------
    UsageError
        Before anything is submitted: everything that is wrong with profile, cluster or recipe.
    """
    profile = load_profile(request.profile)
    request.check(profile, cluster=True)
    folder = SlurmFolder(request.run)
    live = is_live(folder)
    if live and request.change != "refuse":
        raise UsageError(
            what="jobs of this run are in the queue, under the old recipe",
            where=str(request.run),
            do=f"wait for them, or cancel them first: dinoforge cancel {request.run}",
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
            do=f"wait for it, or cancel it first: dinoforge cancel {request.run}",
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
    launch = draft_launch(folder, request)
    if profile.snapshot:
        launch = replace(launch, snapshot=str(take_snapshot(folder.snapshots)))
    folder.write_launch(launch)
    submissions = Submissions(folder.submissions)
    submissions.retry()
    if profile.probe:
        with hold_lease(folder.lease) as lease:
            submitter = Submitter(folder, submissions, lease)
            jobs = Jobs(folder, launch, profile)
            probe_nodes(jobs, submitter, request.jobs(profile), request.devices)
    folder.write_state(State(state="running"))


def draft_launch(folder: SlurmFolder, request: SubmitRequest) -> Launch:
    """Collect what all jobs of the run share, except for the snapshot; writes nothing."""
    digits = hashlib.sha256(os.fsencode(folder.run)).hexdigest()[:6]
    name = re.sub(r"[^a-z0-9]+", "-", folder.run.name.lower()).strip("-")[:24] or "run"
    stages: dict[str, str] = {}
    if request.pipeline:
        pipeline = find_pipeline(request.pipeline)
        inputs = make_inputs(pipeline.name, pipeline.stages, folder.run, request.config)
        for stage in pipeline.stages:
            stages[stage.name] = str(inputs.folder(stage.name).relative_to(folder.run))
    python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return Launch(
        run_id=f"{name}-{digits}",
        command=request.command,
        pipeline=request.pipeline,
        device=_device(request.config),
        stages=stages,
        evaluations=list(request.evaluations),
        folder=str(Path.cwd()),
        python_path=[str(Path(entry).absolute()) for entry in python_path if entry],
        python=sys.executable,
    )


def is_live(folder: SlurmFolder) -> bool:
    """Return whether jobs of the run are in the queue and will still do something."""
    if not (folder.root / "launch.json").is_file():
        return False
    queued = queue(folder.read_launch().job_prefix, patience_s=60)
    state = folder.read_state()
    if state is None or state.state == "running":
        return bool(queued)
    # A gate that has written how the run ended is about to exit.
    gates = {job.name for job in Submissions(folder.submissions).read() if job.kind == "gate"}
    return any(job.name not in gates and job.state != "COMPLETING" for job in queued)
