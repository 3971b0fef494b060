"""What a cluster may lack: a shared folder, accounting, torch on the login node, a partition."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toys
from benchmark_sets import write_nyu, write_videos
from hidden_packages import NO_TORCH
from PIL import Image
from waiting import wait_for, wait_for_end

from dinoforge.cli.main import main
from dinoforge.errors import UsageError
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone
from dinoforge.runs import read_facts
from dinoforge.slurm.status import read_status
from dinoforge.slurm.store.events import read_attempts
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.submit import SubmitRequest, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(480)]

TINY = Path(__file__).parents[1] / "training" / "tiny.yaml"


def without_torch(*words):
    """Run the command as on a machine without torch."""
    start = "import sys; from dinoforge.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", f"{NO_TORCH}\n{start}", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_folder_that_nodes_do_not_see_is_found_before_anything_is_submitted(
    own_bed, run, profile
):
    hidden = own_bed / "local" / "run"
    path = Path(profile())
    path.write_text(path.read_text().replace("probe: false", "probe: true"))
    config = toys.ToyConfig(out=str(hidden))
    request = SubmitRequest(
        command="toy", config=config, profile=str(path), pipeline="toys:PIPELINE"
    )
    with pytest.raises(UsageError, match=r"nodes do not see the run folder - .*out=FOLDER"):
        submit(request)
    jobs = SlurmFolder(hidden).submissions.read()
    assert {job.kind for job in jobs} == {"probe"}


def test_a_probe_shows_what_the_recipe_lacks_on_a_node_and_is_asked_once(bed, run, profile):
    path = Path(profile())
    path.write_text(path.read_text().replace("probe: false", "probe: true"))

    def start(**keys):
        config = toys.ToyConfig(out=str(run), **keys)
        request = SubmitRequest(
            command="toy", config=config, profile=str(path), pipeline="toys:PIPELINE"
        )
        return submit(request)

    with pytest.raises(UsageError, match=r"node node. lacks what 7 needs"):
        start(numbers=7)
    start(numbers=5)
    assert wait_for_end(run).state == "finished"
    start(numbers=5)
    kinds = [job.kind for job in SlurmFolder(run).submissions.read()]
    assert kinds.count("probe") == 2


ODD = "~50%j %% a#b'c\"d`e$f;g&h|i<j>k(l)m{n,o}[p]*?!=,:\x1b\t" + os.fsdecode(b"\xe9") + " "


def test_folders_and_profiles_may_have_any_name_on_a_cluster(bed, run, profile, monkeypatch):
    here = run.parent / ODD
    here.mkdir()
    path = Path(profile()).rename(here / f"{ODD}.yaml")
    path.write_text(path.read_text().replace("probe: false", "probe: true"))
    monkeypatch.chdir(here)
    config = toys.ToyConfig(out=f"./{ODD}/run{ODD}")
    request = SubmitRequest(
        command="toy", config=config, profile=f"./{path.name}", pipeline="toys:PIPELINE"
    )
    submit(request)
    run = here / ODD / f"run{ODD}"
    assert wait_for_end(run).state == "finished"
    status = read_status(run)
    assert [(stage.name, stage.done) for stage in status.stages] == [("square", 4), ("keep", 1)]
    logs = sorted(path.name for path in SlurmFolder(run).logs.iterdir())
    assert sum("square-0" in name and name.endswith("_3.out") for name in logs) == 1
    assert all(name.startswith("df-run-50-j") for name in logs), logs


@pytest.mark.skipif(torch.cuda.is_available(), reason="for nodes whose GPUs do not exist")
def test_a_probe_gets_a_gpu_and_tries_the_device_there(own_bed, run, profile):
    path = Path(profile("gpu: {partition: gpu, gpus_per_node: 1}\n"))
    path.write_text(path.read_text().replace("probe: false", "probe: true"))
    config = toys.ToyConfig(out=str(run), device="cuda")
    request = SubmitRequest(
        command="toy", config=config, profile=str(path), pipeline="toys:PIPELINE"
    )
    with pytest.raises(UsageError, match="device `cuda` cannot be used"):
        submit(request)
    folder = SlurmFolder(run)
    scripts = [folder.scripts / f"{job.name}.sh" for job in folder.submissions.read()]
    assert ["--gpus-per-node=1" in script.read_text() for script in scripts] == [False, True]


@pytest.fixture(scope="session")
def bed_without_accounting(start_bed):
    return start_bed("--no-accounting", "--min-job-age", "2", "--gpus", "0")


def test_without_accounting_and_with_jobs_that_vanish_a_run_goes_on(
    bed, bed_without_accounting, submit, run, monkeypatch
):
    monkeypatch.setenv("SLURM_CONF", str(bed_without_accounting / "etc/slurm.conf"))
    submit({1: "die-once", 2: "raise-once x"})
    assert wait_for_end(run).state == "finished"
    attempts = [
        [a.outcome for a in read_attempts(SlurmFolder(run).attempt("square", index))]
        for index in (1, 2)
    ]
    assert attempts[0][-1] == attempts[1][-1] == "done"
    assert attempts[0][0] in {"killed", "unknown"}
    assert attempts[1][0] == "exception"


@pytest.fixture
def photos(shared):
    folder = shared / "data/cifar10"
    if not folder.is_dir():
        pytest.skip("needs CIFAR-10 of the shared reference folder")
    return folder


def test_a_curation_from_a_login_node_without_torch_is_the_one_of_one_process(
    bed, run, photos, tmp_path
):
    train = f"[{photos}/cifar10-train-000000.tar.gz]"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"""\
sources:
  - {{role: seed, paths: {train}, keys: "train_cat_*", limit: 50, pick: random}}
  - {{role: pool, paths: {train}, limit: 2000}}
  - {{role: reference, paths: ["{photos}/cifar10-test-000000.tar.gz"], limit: 200}}
partition_images: 300
plant: {{count: 50}}
duplicates: {{threshold: 0.975}}
retrieve: {{mode: seeds, k: 4, policy: fill}}
""")
    profile = tmp_path / "profile.yaml"
    profile.write_text("default: {partition: cpu, memory_gb: 1.5, minutes: 10}\n")
    words = ["curate", str(recipe), f"out={run}", "--on", f"slurm:{profile}", "--wait", "-q"]
    done = without_torch(*words)
    assert done.returncode == 0, done.stderr
    assert f"{run}: finished" in done.stdout
    here = tmp_path / "here"
    assert main(["curate", str(recipe), f"out={here}", "-q"]) == 0
    assert contents(run) == contents(here)
    assert read_facts(run)["sources"] == read_facts(here)["sources"]
    # All partitions of a stage ran as elements of one array, on several nodes.
    hosts = {
        json.loads(path.read_text())["measured"]["host"]
        for path in (run / "curation/30-embed").glob("*.done")
    }
    assert hosts <= {f"node{n}" for n in range(1, 5)}
    assert len(hosts) > 1


def test_an_evaluation_from_a_login_node_without_torch_is_the_one_of_one_process(
    bed, run, shared, tmp_path
):
    data, backbone = shared / "data/clothing", tmp_path / "backbone.safetensors"
    tiny = VitConfig(width=24, depth=1, heads=2, patch_size=8, image_size=32, init="xavier")
    save_backbone(backbone, build_vit(tiny, seed=1))
    profile = tmp_path / "profile.yaml"
    profile.write_text("default: {partition: cpu, memory_gb: 1.5, minutes: 10}\n")
    words = [f"train=[{data}/clothing-validation-000000.tar]", f"checkpoint={backbone}"]
    words += [f"test=[{data}/clothing-test-000000.tar]", "partition_images=100", "device=cpu"]
    nyu, videos = write_nyu(tmp_path / "nyu"), write_videos(tmp_path / "videos")
    words += [f"sets.nyu={{layout: nyu_tars, root: {nyu}, protocols: [segmentation]}}"]
    words += [f"sets.videos={{layout: video_tars, root: {videos}, protocols: [propagation]}}"]
    words += ["segmentation={size: [24, 24], blocks: [1], head: {steps: 2, batch_size: 2}}"]
    words += ["protocols=[knn, logistic]", "logistic.c_count=2", "bootstrap.resamples=100", "-q"]
    submitted = ["evaluate", *words, f"out={run}", "--on", f"slurm:{profile}", "--wait"]
    done = without_torch(*submitted)
    assert done.returncode == 0, done.stderr
    assert f"{run}: finished" in done.stdout
    here = tmp_path / "here"
    assert main(["evaluate", *words, f"out={here}", "--on", "local:2"]) == 0
    assert (run / "records.jsonl").read_bytes() == (here / "records.jsonl").read_bytes()
    assert read_facts(run)["sources"] == read_facts(here)["sources"]
    assert len(list((run / "evaluation/20-features").glob("*.done"))) == 12


def test_a_training_is_submitted_from_a_login_node_without_torch(bed, run, tmp_path):
    for number in range(6):
        Image.effect_noise((40, 40), 10 * number + 1).convert("RGB").save(
            tmp_path / f"{number}.png"
        )
    profile = tmp_path / "profile.yaml"
    profile.write_text("""\
default: {partition: cpu, memory_gb: 2, minutes: 10}
stages: {train: {nodes: 2}}
""")
    words = ["train", str(TINY), f"data.paths=[{tmp_path}]", f"out={run}", "threads=1", "-q"]
    words += ["--on", f"slurm:{profile}"]
    refused = without_torch(*words, "batch_size=3")
    assert refused.returncode == 2
    assert "not a multiple of 2 ranks - recipe, 2 x 1 ranks of" in refused.stderr
    assert not run.exists()
    done = without_torch(*words, "--wait")
    assert done.returncode == 0, done.stderr
    assert f"{run}: finished" in done.stdout
    assert (run / "export/step-000000006/model.safetensors").is_file()


def contents(folder):
    """Bytes of every result; markers without what may differ."""
    result = {}
    for top in ("curation", "shards"):
        for path in sorted((folder / top).rglob("*")):
            name = str(path.relative_to(folder))
            if path.suffix == ".done":
                result[name] = json.loads(path.read_text()) | {"measured": None}
            elif path.is_file():
                result[name] = path.read_bytes()
    return result


@pytest.mark.parametrize(
    ("profile", "reported"),
    [
        ("default: {partition: cpuu}", "no partition `cpuu` (did you mean `cpu`?)"),
        ("default: {memory_gb: 100}", "`memory_gb` is 100 for discover, partition `cpu` has 8"),
        ("default: {account: nosuch, sbatch: {licenses: moon}}", "SLURM refused a job"),
        ("default: {partitoin: cpu}", "unknown key `default.partitoin`"),
    ],
)
def test_a_profile_that_asks_for_too_much_is_one_line(
    own_bed, run, tmp_path, capsys, profile, reported
):
    path = tmp_path / "profile.yaml"
    path.write_text(profile + "\n")
    (tmp_path / "images").mkdir()
    words = [f"sources=[{{paths: [{tmp_path}/images]}}]", f"out={run}", "--on", f"slurm:{path}"]
    assert main(["curate", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert reported in line
    assert line.count(" - ") == 2


@pytest.mark.parametrize(
    ("asks", "reported"),
    [
        ("partition: gpus", "no partition `gpus` (did you mean `gpu`?)"),
        ("nodes: 9", "`nodes` is 9 for train, partition `cpu` has 4"),
        ("tasks_per_node: 8, nodes: 2", "`cpus_per_task x tasks_per_node` is 8 for train"),
        ("gpus_per_node: 3, partition: gpu", "`gpus_per_node` is 3 for train"),
    ],
)
def test_a_training_that_asks_for_too_much_is_one_line(
    own_bed, run, tmp_path, capsys, asks, reported
):
    path = tmp_path / "profile.yaml"
    path.write_text(f"default: {{partition: cpu}}\nstages: {{train: {{{asks}}}}}\n")
    words = [f"data.paths=[{tmp_path}]", f"out={run}", "batch_size=144", "--on", f"slurm:{path}"]
    assert main(["train", str(TINY), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert reported in line
    assert line.count(" - ") == 2
    assert not run.exists()


def test_a_dry_run_shows_chunks_and_scripts_and_writes_nothing(bed, run, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words = [f"sources=[{{paths: [{tmp_path}/a.png]}}]", f"out={run}", "--on", "slurm:cpu"]
    assert main(["curate", *words, "--dry-run"]) == 0
    reported = capsys.readouterr().out
    assert "checked against the cluster" in reported
    assert "1 partition in 1 array of 1 elements, then a gate after all of them" in reported
    assert reported.count("#!/bin/bash") == 2
    assert not run.exists()


def test_a_run_whose_jobs_are_in_the_queue_is_not_written_to_from_here(submit, run):
    from dinoforge.cli.cluster.launch import refuse_live

    submit({0: "hang"}, numbers=5)
    with pytest.raises(UsageError, match="jobs on a cluster are writing to this run"):
        refuse_live(run)
    wait_for(lambda: read_status(run).stages[0].running == 1, what="a partition that runs")
    status = read_status(run)
    assert status.asked_slurm
    assert status.jobs == {"RUNNING": 1, "PENDING": 1}
    (run / "bad-0").unlink()
    wait_for_end(run)
    refuse_live(run)
