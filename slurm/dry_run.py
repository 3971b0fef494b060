"""What ``--dry-run`` prints: the jobs of every stage and the first batch scripts."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dinoforge.slurm.arrays import StageWork
from dinoforge.slurm.cluster.commands import has_slurm
from dinoforge.slurm.cluster.executor import sbatch_text
from dinoforge.slurm.cluster.limits import max_array_size
from dinoforge.slurm.jobs import Jobs
from dinoforge.slurm.profile import Job, load_profile
from dinoforge.slurm.retries import Submit
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.submit import SubmitRequest, draft_launch
from dinoforge.stages import find_pipeline, make_inputs, plan_in_order

__all__ = ["DryRun", "dry_run"]


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a submission would do."""

    checked: bool  # against the cluster; False on a machine without SLURM
    graph: list[dict[str, str]] = field(default_factory=list)  # one row per stage, in order
    scripts: dict[str, str] = field(default_factory=dict)  # job name -> batch script

    def add(self, stage: str, job: Job, jobs: str) -> None:
        """Add a stage, what a job of it requests, and its jobs."""
        self.graph.append({"stage": stage, "asks": _resources(job), "jobs": jobs})

    def lines(self) -> Iterator[str]:
        """Format it for a terminal."""
        yield "checked against the cluster" if self.checked else "no SLURM here: not checked"
        for row in self.graph:
            yield ""
            yield f"{row['stage']}: {row['asks']}"
            yield f"  {row['jobs']}"
        for name, text in self.scripts.items():
            yield ""
            yield f"--- {name}"
            yield text.rstrip()


def dry_run(request: SubmitRequest) -> DryRun:
    """Check a request, and plan its jobs without submitting any.

    Raises
    ------
    UsageError
        Everything that is wrong with profile, recipe or cluster.
    """
    profile = load_profile(request.profile)
    plan = DryRun(checked=has_slurm())
    request.check(profile, cluster=plan.checked)
    folder = SlurmFolder(request.run)
    jobs = Jobs(folder, draft_launch(folder, request), profile)
    if request.pipeline:
        _add_stages(plan, jobs, request)
    else:
        _add_ranks(plan, jobs, request)
    return plan


def _add_ranks(plan: DryRun, jobs: Jobs, request: SubmitRequest) -> None:
    resources = request.jobs(jobs.profile)
    job = resources[request.command]
    name = jobs.name(request.command, 0)
    ranks = _count(job.nodes * job.tasks_per_node, "rank")
    plan.add(request.command, job, f"one job of {ranks}, requeued until it is done")
    plan.scripts[name] = sbatch_text(jobs.ranks(name, job))
    for stage in (Evaluation(request.run, name).stage for name in request.evaluations):
        text = "one job per backbone that is kept, submitted while the training runs"
        plan.add(stage, resources[stage], text)
        name = jobs.name(stage, "STEP")
        plan.scripts[name] = sbatch_text(jobs.array(name, resources[stage], 1))


def _add_stages(plan: DryRun, jobs: Jobs, request: SubmitRequest) -> None:
    pipeline = find_pipeline(request.pipeline)
    size = max_array_size() if plan.checked else 1001
    resources = request.jobs(jobs.profile)
    for name in (stage.name for stage in pipeline.stages):
        plan.add(name, resources[name], "planned by the gate before")
    inputs = make_inputs(pipeline.name, pipeline.stages, request.run, request.config)
    planned = plan_in_order(pipeline.stages, inputs)
    for row, (stage_plan, missing) in zip(plan.graph, planned, strict=False):
        total = len(stage_plan.tasks)
        if not missing:
            row["jobs"] = f"done: {_count(total, 'partition')}"
            continue
        stage = stage_plan.stage.name
        job = resources[stage]
        payloads = {task.index: task.payload for task in missing}
        work = StageWork(stage=stage, job=job, missing=payloads)
        limits = dict.fromkeys(payloads, Submit(job.memory_gb, job.minutes))
        sizes = [part.elements for part in work.plans(limits, size)]
        done = f" ({total - len(missing)} are done)" if total > len(missing) else ""
        listed = ", ".join(map(str, sizes[:8])) + (" ..." if len(sizes) > 8 else "")
        row["jobs"] = (
            f"{_count(len(missing), 'partition')}{done} in {_count(len(sizes), 'array')} of "
            f"{listed} elements, then a gate after all of them"
        )
        array, gate = jobs.name(stage, 0), jobs.name(stage, "gate")
        plan.scripts[array] = sbatch_text(jobs.array(array, job, sizes[0]))
        ids = [f"ARRAY{number}" for number in range(len(sizes))]
        plan.scripts[gate] = sbatch_text(jobs.gate(gate, ids))
        return  # later stages are planned from the outputs of this one


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _resources(job: Job) -> str:
    parts = [job.partition or "default partition"]
    if job.nodes * job.tasks_per_node > 1:
        parts.append(f"{job.nodes} x {job.tasks_per_node} tasks")
    parts.append(_count(job.cpus_per_task, "CPU"))
    if job.gpus_per_node:
        parts.append(f"{_count(job.gpus_per_node, 'GPU')} per node")
    parts += [f"{job.memory_gb:g} GB", f"{job.minutes} min"]
    if job.partitions_per_element > 1:
        parts.append(f"{job.partitions_per_element} partitions per element")
    return ", ".join(parts)
