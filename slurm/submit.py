"""From a recipe and a profile to a run in the queue: what ``--on slurm:PROFILE`` does."""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dinoforge.config import config_yaml
from dinoforge.errors import Fault, UsageError
from dinoforge.files import write_text
from dinoforge.runs import OnChange, Run, recipe_changes
from dinoforge.slurm.cluster.commands import SlurmError, need_slurm, queue
from dinoforge.slurm.cluster.limits import check_jobs, read_partitions
from dinoforge.slurm.driver import advance
from dinoforge.slurm.jobs import Jobs, command_job, one_process
from dinoforge.slurm.probing import probe_nodes
from dinoforge.slurm.profile import Job, Profile, load_profile
from dinoforge.slurm.store.evaluations import Evaluation, check_unchanged, write_recipes
from dinoforge.slurm.store.layout import Launch, SlurmFolder, State
from dinoforge.slurm.store.lease import LeaseBusyError, hold_lease
from dinoforge.slurm.store.snapshot import take_snapshot
from dinoforge.slurm.store.submissions import Submissions
from dinoforge.slurm.submission import Submitter
from dinoforge.stages import Pipeline, find_pipeline, make_inputs, stage_kind

__all__ = ["SubmitRequest", "check_cluster", "draft_launch", "is_live", "refresh_code", "submit"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """What a person asks to be run on a cluster."""

    command: Literal["curate", "train", "evaluate"] | str  # what a run folder of this kind holds
    config: Any  # the resolved recipe; ``config.out`` is the run folder
    profile: str  # path, or the name of one that comes along
    pipeline: str = ""  # import path of a pipeline of stages; "": one job of ranks
    origins: Mapping[str, str] = field(default_factory=dict)  # as in `Run.open`
    change: OnChange = "refuse"  # as in `Run.open`
    # of a training: resolved recipes by which its kept exports are measured, by name
    evaluations: Mapping[str, Any] = field(default_factory=dict)

    def check_ranks(self, profile: Profile) -> None:
        """Check the recipe against the ranks of the profile here, not on a node an hour later.

        Raises
        ------
        UsageError
            What does not divide over them, or wants a GPU that the job does not ask for.
        """
        if self.pipeline:
            return
        job = self.jobs(profile)[self.command]
        faults = list(_gpu_faults(_device(self.config), job, self.command, self.profile))
        if faults:
            raise UsageError(faults=faults)
        check = getattr(self.config, "check_ranks", None)
        if check is None:
            return
        try:
            check(job.nodes * job.tasks_per_node, job.tasks_per_node)
        except UsageError as error:
            ranks = f"{job.nodes} x {job.tasks_per_node} ranks of {self.profile}"
            faults = [replace(fault, where=f"{fault.where}, {ranks}") for fault in error.faults]
            raise UsageError(faults=faults) from error

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.config.out).absolute()

    def jobs(self, profile: Profile) -> dict[str, Job]:
        """Everything that will be asked of the cluster, by name."""
        if not self.pipeline:
            jobs = {self.command: command_job(profile, self.command, _device(self.config))}
            beside = {
                Evaluation(self.run, name).stage: command_job(profile, "evaluate", _device(config))
                for name, config in self.evaluations.items()
            }
            return jobs | beside
        stages = find_pipeline(self.pipeline).stages
        jobs = {
            s.name: one_process(profile.job(s.name, stage_kind(s, self.config))) for s in stages
        }
        return jobs | {"gate": profile.job("gate", "gate")}


def _device(config: Any) -> str:
    return str(getattr(config, "device", "auto"))


def _gpu_faults(device: str, job: Job, command: str, profile: str) -> Iterator[Fault]:
    # Clusters have words of their own for GPUs: licenses, gres, features.
    further = any("gpu" in f"{name}={value}" for name, value in job.sbatch.items())
    if device == "cuda" and not job.gpus_per_node and not further:
        what = f"`device` is cuda, the job of {command} asks for no GPU"
        yield Fault(what, profile, f"set stages.{command}.gpus_per_node, or give device=cpu")
    if device != "cpu" and 0 < job.gpus_per_node < job.tasks_per_node:
        what = f"{job.tasks_per_node} ranks on the {job.gpus_per_node} GPUs of a node"
        yield Fault(what, profile, f"set tasks_per_node: {job.gpus_per_node}, one rank a GPU")


def submit(request: SubmitRequest) -> State:
    """Submit a run: its first stage and a gate that goes on from there, or its one job of ranks.

    The same call goes on with a run that stopped, and does nothing to one that is in the queue.

    Raises
    ------
    UsageError
        Before anything is submitted: everything that is wrong with profile, cluster or recipe.
    """
    profile = load_profile(request.profile)
    request.check_ranks(profile)
    need_slurm()
    check_cluster(request.jobs(profile), request.profile)
    if request.pipeline:
        _check_recipe(find_pipeline(request.pipeline), request.config)
    else:
        _check_time(profile, request)
    folder = SlurmFolder(request.run)
    live = is_live(folder)
    if live and request.change != "refuse":
        raise UsageError(
            what="jobs of this run are in the queue, under the recipe as it was",
            where=str(request.run),
            do=f"wait for them, or end them first: dinoforge cancel {request.run}",
        )
    if request.change == "refuse":
        check_unchanged(request.run, request.evaluations)
    if live and not request.pipeline:
        return _look_after(folder, request)
    with Run.open(
        request.run,
        request.config,
        command=request.command,
        origins=request.origins,
        on_change=request.change,
    ) as opened:
        opened.handed_over = True
        write_recipes(request.run, request.evaluations)
        if not live:
            _begin(folder, request, profile)
            state = advance(request.run)
            opened.handed_over = state.state != "finished"  # else no job is left to hand over to
            return state
        return _advance_live(folder)


def _look_after(folder: SlurmFolder, request: SubmitRequest) -> State:
    """Take on a training whose job is in the queue and writes the run: nothing is opened here."""
    changed = recipe_changes(request.run, request.config)
    if changed:
        raise UsageError(
            what="a job of this run is in the queue, under another recipe: "
            + ", ".join(f"`{key}`" for key in changed),
            where=str(request.run),
            do=f"wait for it, or end it first: dinoforge cancel {request.run}",
        )
    write_recipes(request.run, request.evaluations)
    _ask_for_more(folder, request)
    return _advance_live(folder)


def _advance_live(folder: SlurmFolder) -> State:
    try:
        return advance(folder.run, wait_s=10.0)
    except LeaseBusyError:
        return folder.read_state() or State(state="running")  # a job is at work on it


def _begin(folder: SlurmFolder, request: SubmitRequest, profile: Profile) -> None:
    """Write down what the jobs need, and ask the nodes whether they can do it."""
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
            probe_nodes(Jobs(folder, launch, profile), submitter, request.jobs(profile))
    folder.write_state(State(state="running"))


def _ask_for_more(folder: SlurmFolder, request: SubmitRequest) -> None:
    """Let a training that runs be measured by further recipes, too."""
    launch = folder.read_launch()
    names = list(dict.fromkeys([*launch.evaluations, *request.evaluations]))
    if names != launch.evaluations:
        folder.write_launch(replace(launch, evaluations=names))


def check_cluster(jobs: Mapping[str, Job], where: str) -> None:
    """Compare a profile with the cluster.

    Raises
    ------
    UsageError
        All that it asks for and the cluster does not have.
    """
    try:
        faults = check_jobs(jobs, read_partitions(), where)
    except SlurmError as error:
        raise UsageError(
            what=f"SLURM gives no answer: {error}",
            where="sinfo",
            do="try again; SLURM_CONF says where the cluster's configuration is",
        ) from error
    if faults:
        raise UsageError(faults=faults)


def _check_recipe(pipeline: Pipeline, config: Any) -> None:
    """Check what can be checked here; a login node may lack the packages of the nodes."""
    try:
        pipeline.check(config)
    except ImportError as error:
        _log.info("%s is not on this machine: a node checks the recipe", error.name)


def _check_time(profile: Profile, request: SubmitRequest) -> None:
    """Refuse a limit without time to work: the signal may come a minute early, Python starts."""
    minutes = request.jobs(profile)[request.command].minutes
    if 60 * minutes < profile.signal_before_s + 180:
        raise UsageError(
            what=f"{minutes} min leave no time to work before the signal to save, "
            f"{profile.signal_before_s} s before the end",
            where=request.profile,
            do="raise `minutes`, or lower `signal_before_s`",
        )


def draft_launch(folder: SlurmFolder, request: SubmitRequest) -> Launch:
    """Say what all jobs of the run share, but for the snapshot; writes nothing."""
    digits = hashlib.sha256(os.fsencode(folder.run)).hexdigest()[:6]
    name = re.sub(r"[^a-z0-9]+", "-", folder.run.name.lower()).strip("-")[:24] or "run"
    own = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return Launch(
        run_id=f"{name}-{digits}",
        command=request.command,
        pipeline=request.pipeline,
        device=_device(request.config),
        stages=_stage_folders(folder.run, request),
        evaluations=list(request.evaluations),
        folder=str(Path.cwd()),
        python_path=[str(Path(entry).absolute()) for entry in own],
        python=sys.executable,
    )


def _stage_folders(run: Path, request: SubmitRequest) -> dict[str, str]:
    if not request.pipeline:
        return {}
    pipeline = find_pipeline(request.pipeline)
    inputs = make_inputs(pipeline.name, pipeline.stages, run, request.config)
    return {s.name: str(inputs.folder(s.name).relative_to(run)) for s in pipeline.stages}


def refresh_code(folder: SlurmFolder) -> None:
    """Let the jobs that come run the code as it is now: a person may have mended it."""
    launch = folder.read_launch()
    if launch.snapshot:
        new = str(take_snapshot(folder.snapshots))
        folder.write_launch(replace(launch, snapshot=new))


def is_live(folder: SlurmFolder) -> bool:
    """Tell whether jobs of the run are in the queue and will still do something."""
    if not (folder.root / "launch.json").is_file():
        return False
    queued = queue(folder.read_launch().job_prefix, patience_s=60)
    state = folder.read_state()
    if state is None or state.state == "running":
        return bool(queued)
    # A gate that has written how the run ended is gone in a moment.
    gates = {job.name for job in Submissions(folder.submissions).read() if job.kind == "gate"}
    return any(job.name not in gates and job.state != "COMPLETING" for job in queued)
