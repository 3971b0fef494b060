"""What ``--dry-run`` tells: checks, chunks, the graph of jobs, sbatch texts; writes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dinoforge.slurm.arrays import StageWork
from dinoforge.slurm.cluster.commands import has_slurm
from dinoforge.slurm.cluster.executor import sbatch_text
from dinoforge.slurm.cluster.limits import max_array_size
from dinoforge.slurm.jobs import Jobs, command_job
from dinoforge.slurm.profile import Job, Profile, load_profile
from dinoforge.slurm.retries import Submit
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.submit import SubmitRequest, check_cluster, draft_launch
from dinoforge.stages import find_pipeline, make_inputs, plan_in_order

__all__ = ["DryRun", "dry_run"]


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """A submission as it would be."""

    checked: bool  # against the cluster; False on a machine without SLURM
    graph: list[dict[str, Any]]  # a row a stage, in order: job settings, partitions, arrays
    scripts: dict[str, str]  # name -> sbatch text

    def as_json(self) -> dict[str, Any]:
        """JSON object."""
        return dict(vars(self))

    def lines(self) -> Iterator[str]:
        """Tell it to a person."""
        yield "checked against the cluster" if self.checked else "no SLURM here: nothing checked"
        for row in self.graph:
            yield ""
            yield f"{row['stage']}: {row['asks']}"
            yield f"  {row['jobs']}"
        for name, text in self.scripts.items():
            yield ""
            yield f"--- {name}"
            yield text.rstrip()


def dry_run(request: SubmitRequest) -> DryRun:
    """Say what `submit` would do.

    Raises
    ------
    UsageError
        Everything that is wrong with profile, recipe or cluster.
    """
    profile = load_profile(request.profile)
    request.check_ranks(profile)
    checked = has_slurm()
    if checked:
        check_cluster(request.jobs(profile), request.profile)
    folder = SlurmFolder(request.run)
    requests = Jobs(folder, draft_launch(folder, request), profile)
    if not request.pipeline:
        return _of_ranks(requests, profile, request, checked=checked)
    return _of_stages(requests, request, checked=checked)


def _of_ranks(requests: Jobs, profile: Profile, request: SubmitRequest, *, checked: bool) -> DryRun:
    job = command_job(profile, request.command, requests.launch.device)
    name = requests.name(request.command, 0)
    ranks = job.nodes * job.tasks_per_node
    jobs = f"one job of {ranks} rank{'s' if ranks > 1 else ''}, requeued until it is done"
    graph = [{"stage": request.command, "asks": _asks(job), "jobs": jobs}]
    scripts = {name: sbatch_text(requests.ranks(name, job))}
    for recipe in request.evaluations:
        stage = Evaluation(request.run, recipe).stage
        job = request.jobs(profile)[stage]
        jobs = "one job for each backbone that is kept, submitted while the training runs"
        graph.append({"stage": stage, "asks": _asks(job), "jobs": jobs})
        name = requests.name(stage, "STEP")
        scripts[name] = sbatch_text(requests.array(name, job, 1))
    return DryRun(checked=checked, graph=graph, scripts=scripts)


def _of_stages(requests: Jobs, request: SubmitRequest, *, checked: bool) -> DryRun:
    pipeline = find_pipeline(request.pipeline)
    pipeline.check(request.config)
    size = max_array_size() if checked else 1001
    jobs = request.jobs(requests.profile)
    inputs = make_inputs(pipeline.name, pipeline.stages, request.run, request.config)
    graph = [
        {"stage": stage.name, "asks": _asks(jobs[stage.name]), "jobs": "planned by the gate before"}
        for stage in pipeline.stages
    ]
    scripts: dict[str, str] = {}
    for row, (plan, missing) in zip(graph, plan_in_order(pipeline.stages, inputs), strict=False):
        if not missing:
            row["jobs"] = f"done: {len(plan.tasks)} partitions"
            continue
        job = jobs[plan.stage.name]
        limits = Submit(job.memory_gb, job.minutes)
        payloads = {task.index: task.payload for task in missing}
        work = StageWork(stage=plan.stage.name, job=job, missing=payloads)
        sizes = [p.elements for p in work.plans(dict.fromkeys(payloads, limits), size)]
        row["jobs"] = _arrays(len(missing), len(plan.tasks), sizes)
        name = requests.name(plan.stage.name, 0)
        scripts[name] = sbatch_text(requests.array(name, job, sizes[0]))
        gate = requests.name(plan.stage.name, "gate")
        ids = [f"ARRAY{number}" for number in range(len(sizes))]
        scripts[gate] = sbatch_text(requests.gate(gate, ids))
        break  # later stages are planned from what this one will have done
    return DryRun(checked=checked, graph=graph, scripts=scripts)


def _arrays(missing: int, total: int, sizes: list[int]) -> str:
    done = f" ({total - missing} are done)" if total > missing else ""
    arrays = (
        f"{len(sizes)} array{'s' if len(sizes) > 1 else ''} of {', '.join(map(str, sizes[:8]))}"
    )
    more = " ..." if len(sizes) > 8 else ""
    return f"{missing} partitions{done} in {arrays}{more} elements, then a gate behind all of them"


def _asks(job: Job) -> str:
    words = [job.partition or "default partition"]
    if job.nodes * job.tasks_per_node > 1:
        words.append(f"{job.nodes} x {job.tasks_per_node} tasks")
    words.append(f"{job.cpus_per_task} CPUs" if job.cpus_per_task > 1 else "1 CPU")
    if job.gpus_per_node:
        words.append(f"{job.gpus_per_node} GPU{'s' if job.gpus_per_node > 1 else ''} a node")
    words += [f"{job.memory_gb:g} GB", f"{job.minutes} min"]
    if job.partitions_per_element > 1:
        words.append(f"{job.partitions_per_element} partitions an element")
    return ", ".join(words)
