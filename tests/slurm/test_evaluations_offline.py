"""Evaluations beside a training, as far as no cluster is needed: recipes, markers, decisions."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trainings import TRAINING
from waiting import wait_for

from dinoforge.cli.main import main
from dinoforge.config import config_yaml, load_config
from dinoforge.errors import UsageError
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone
from dinoforge.records import Record, read_records, write_records
from dinoforge.slurm.driver import Driver
from dinoforge.slurm.jobs import Jobs, Submitter
from dinoforge.slurm.outcomes import Outcome
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.store.evaluations import Evaluation, check_unchanged, write_recipes
from dinoforge.slurm.store.events import AttemptWriter, Submission, read_attempts, read_lines
from dinoforge.slurm.store.layout import JobPlan, Launch, SlurmFolder, State
from dinoforge.steps import kept_exports
from dinoforge.training.config import TrainingConfig

KEYS = ("model.architecture=custom", "log_every=10", *TRAINING)


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def silent_slurm(tmp_path, monkeypatch):
    """A silent cluster: limits are those of the profile."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sinfo").write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
    (tools / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")


@pytest.fixture
def run(tmp_path, photos):
    """A training that was submitted with one evaluation, at step 120 of 200."""
    folder = SlurmFolder(tmp_path / "run")
    folder.root.mkdir(parents=True)
    keys = ["steps=200", "checkpoint.every=20", "checkpoint.export_every=50", f"out={folder.run}"]
    config = load_config(TrainingConfig, None, [*KEYS, f"data.paths=[{photos}]", *keys])
    (folder.run / "config.yaml").write_text(config_yaml(config))
    folder.profile.write_text(config_yaml(Profile()))
    launch = Launch(
        run_id="run-1", command="train", pipeline="", device="cpu", folder=str(tmp_path),
        python_path=[], python=sys.executable, evaluations=["waves"],
    )  # fmt: skip
    folder.write_launch(launch)
    folder.write_state(State(state="running", stage="train"))
    vit = VitConfig(width=24, depth=1, heads=2, patch_size=8, image_size=32, init="xavier")
    for step in (0, 50, 80, 100, 120):
        path = folder.run / f"export/step-{step:09d}/model.safetensors"
        save_backbone(path, build_vit(vit, seed=step), {"step": str(step)})
    write_recipes(folder.run, {"waves": recipe(photos)})
    return folder.run


def recipe(photos, *words):
    keys = ["out=o", f"train=[{photos}]", "features=[cls]", "protocols=[knn]", "device=cpu"]
    keys += ["bootstrap.resamples=200", "knn.k=[3]", "name=waves"]
    return load_config(EvaluationConfig, None, [*keys, *words])


def finish(evaluation, step, exit_code=0):
    place = evaluation.step_folder(step)
    place.mkdir(parents=True, exist_ok=True)
    (place / "run.json").write_text(json.dumps({"exit_code": exit_code}))
    knn = {"features": "cls", "k": 3, "step": step}
    record = Record(
        benchmark="knn/waves", model="trained", metric="accuracy", value=0.75, settings=knn
    )
    write_records(evaluation.records(step), [record])


def test_what_the_training_keeps_for_good_is_measured(run):
    assert kept_exports(run) == [50, 100]
    last = run / "export/step-000000200"
    last.mkdir()
    assert kept_exports(run) == [50, 100]  # not whole yet
    (last / "model.safetensors").touch()
    assert kept_exports(run) == [50, 100, 200]
    shutil.rmtree(run / "export")
    assert kept_exports(run) == []


def test_an_evaluation_is_done_when_its_own_records_state_it(run):
    evaluation = Evaluation(run, "waves")
    assert not evaluation.is_done(50)
    for code, done in ((None, False), (1, False), (0, True)):
        finish(evaluation, 50, code)
        assert evaluation.is_done(50) is done
    evaluation.records(50).unlink()
    assert not evaluation.is_done(50)


def test_a_recipe_is_kept_resolved_and_a_changed_one_is_refused_or_measured_anew(run, photos):
    evaluation = Evaluation(run, "waves")
    kept = load_config(EvaluationConfig, evaluation.recipe)
    assert (kept.checkpoint, kept.knn.k, kept.checkpoints) == (str(run), [3], "latest")
    finish(evaluation, 50)
    same, other = {"waves": recipe(photos)}, {"waves": recipe(photos, "knn.k=[5]")}
    check_unchanged(run, same)
    write_recipes(run, same)
    assert evaluation.is_done(50)
    with pytest.raises(UsageError, match=r"the evaluation waves changed: `knn.k` - .*--update"):
        check_unchanged(run, other)
    write_recipes(run, other)
    assert not Evaluation(run, "waves").is_done(50)


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--evaluate", "quickstar"], "did you mean `quickstart`"),
        (["--evaluate", "cifar10_cpu", "--evaluate", "cifar10_cpu"], "two evaluations are called"),
        (["--evaluate", "quickstart"], "`train` is empty"),
        (["--evaluate", "bad.yaml"], "unknown key `knn.kk`"),
        (["--evaluate", "a b.yaml"], "`a b` cannot name a folder and jobs"),
    ],
)
def test_a_mistake_in_what_is_to_be_measured_ends_the_submission_with_2_and_one_line(
    words, reported, photos, tmp_path, monkeypatch, no_slurm, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(f"train: [{photos}]\nknn: {{kk: [3]}}\n")
    Path("a b.yaml").write_text(f"train: [{photos}]\n")
    keys = [*KEYS, f"data.paths=[{photos}]", "out=run"]
    assert main(["train", *keys, "--on", "slurm:cpu", "--dry-run", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reported in line
    assert not Path("run").exists()


def test_without_a_cluster_the_command_states_what_to_do_instead(photos, capsys):
    keys = [*KEYS, f"data.paths=[{photos}]", "out=run"]
    assert main(["train", *keys, "--evaluate", "cifar10_cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--evaluate works only with --on slurm:PROFILE" in line
    assert "dinoforge evaluate cifar10_cpu checkpoint=run" in line


def test_a_dry_run_shows_the_evaluation_jobs(photos, tmp_path, no_slurm, capsys):
    profile = tmp_path / "profile.yaml"
    profile.write_text("stages: {evaluate: {memory_gb: 7}}\n")
    (tmp_path / "waves.yaml").write_text(f"train: [{photos}]\n")
    keys = [*KEYS, f"data.paths=[{photos}]", f"out={tmp_path / 'run'}"]
    words = ["train", *keys, "--on", f"slurm:{profile}", "--dry-run", "--json"]
    assert main([*words, "--evaluate", str(tmp_path / "waves.yaml")]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in reported["graph"]] == ["train", "evaluate-waves"]
    (script,) = (text for name, text in reported["scripts"].items() if "evaluate-waves" in name)
    assert "--mem=7000M" in script
    assert " dinoforge.slurm.node.worker " in script
    assert not (tmp_path / "run").exists()


def test_neither_the_watch_nor_the_job_holds_torch_beside_the_one_that_works():
    programs = "import dinoforge.slurm.node.worker, dinoforge.slurm.node.worker"
    code = f"{programs}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def plan_job(folder, name, stage, partition, **facts):
    plan = JobPlan(
        name=name, stage=stage, per_element=1, partitions=[partition],
        payloads=[{"recipe": "waves"}], memory_gb=4, minutes=60, cpus=1, gpus=0, **facts,
    )  # fmt: skip
    folder.write_plan(plan)


class Past:
    """Evaluation jobs of one step that came to an end."""

    def __init__(self, run):
        self.folder = SlurmFolder(run)
        self.submissions = self.folder.submissions

    def add(self, number, outcome, text=""):
        name, stage = f"df-run-1-{number}", "evaluate-waves"
        plan_job(self.folder, name, stage, 50)
        self.submissions.intent(Submission(name=name, kind="array", stage=stage))
        self.submissions.outcome("submitted", name, job=str(number))
        attempt = AttemptWriter(self.folder.attempt(stage, 50), plan=name, job=f"{number}_0")
        attempt.start(memory_gb=4, minutes=60)
        attempt.end(outcome, text)

    def missing(self):
        jobs = Jobs(self.folder, self.folder.read_launch(), Profile())
        driver = Driver(
            jobs=jobs,
            submitter=Submitter(jobs, None),
            submissions=self.submissions.read(),
            queued=[],
            on_node=False,
        )
        (work,) = driver.evaluations()
        decisions = driver.decide(work)
        submit = {step: limits.memory_gb for step, limits in decisions.submit.items()}
        return submit, decisions.reasons(work.stage, numbered=True)


def test_what_failed_is_tried_again_by_its_class_and_not_for_ever(run, silent_slurm):
    past = Past(run)
    assert past.missing() == ({50: 4.0, 100: 4.0}, [])
    past.add(1, Outcome.MEMORY, "out of memory")
    assert past.missing() == ({50: 6.0, 100: 4.0}, [])
    past.add(2, Outcome.PREEMPTED)
    assert past.missing()[0].keys() == {50, 100}
    past.add(3, Outcome.INFRASTRUCTURE, "the node failed")
    why = "evaluate-waves 50: infrastructure: the node failed; no progress in 3 submissions"
    assert past.missing() == ({100: 4.0}, [why])
    past.submissions.retry()
    past.add(4, Outcome.USAGE, "no images")
    assert past.missing() == ({100: 4.0}, ["evaluate-waves 50: usage: no images"])
    finish(Evaluation(run, "waves"), 50)
    assert past.missing() == ({100: 4.0}, [])


def test_a_job_that_claims_success_without_records_is_tried_once_more(run, silent_slurm):
    past = Past(run)
    past.add(1, Outcome.DONE)
    assert 50 in past.missing()[0]
    past.add(2, Outcome.DONE)
    (why,) = past.missing()[1]
    assert why.startswith("evaluate-waves 50: no-marker: it reported success")


def test_the_status_counts_the_steps_of_each_recipe_and_shows_the_newest_score(
    run, no_slurm, capsys
):
    past = Past(run)
    past.add(1, Outcome.EXCEPTION, "ValueError: odd")
    finish(Evaluation(run, "waves"), 100)
    assert main(["status", str(run)]) == 0
    reported = capsys.readouterr().out
    assert [line.split() for line in reported.splitlines() if "evaluate-waves  " in line] == [
        ["evaluate-waves", "2", "1", "0", "1", "0"]
    ]
    assert "evaluate-waves: step 100: knn/waves 0.7500, k = 3, cls" in reported
    assert f"dinoforge logs {run} evaluate-waves:50" in reported


def start(module, words, **environment):
    variables = os.environ | environment
    return subprocess.Popen([sys.executable, "-P", "-m", module, *words], env=variables)


def test_an_evaluation_job_measures_its_step_and_writes_a_preemption_down(run):
    lines = SlurmFolder(run).attempt("evaluate-waves", 50)
    plan_job(SlurmFolder(run), "df-a", "evaluate-waves", 50)
    words, element = [str(run), "df-a"], {"SLURM_ARRAY_TASK_ID": "0"}
    with start("dinoforge.slurm.node.worker", words, SLURM_ARRAY_JOB_ID="7", **element) as job:
        log = Evaluation(run, "waves").step_folder(50) / "log/rank-00000.txt"
        wait_for(log.exists, 100, "the evaluation")
        # A preemption signals every process of the job.
        (child,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        job.send_signal(signal.SIGTERM)
        assert job.wait(100) == 0
    assert Evaluation(run, "waves").is_done(50)
    (attempt,) = read_attempts(lines)
    assert (attempt.outcome, attempt.signals) == ("done", ["TERM"])
    records = read_records(Evaluation(run, "waves").records(50))
    assert {(r.model, r.settings.get("step")) for r in records if r.metric == "accuracy"} == {
        ("trained", 50),
        ("untrained", 0),
        ("pixels", None),
    }
    with start("dinoforge.slurm.node.worker", words, SLURM_ARRAY_JOB_ID="8", **element) as double:
        assert double.wait(60) == 23


def test_signals_reach_the_training_at_once_while_slurm_gives_no_answer(run, photos, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    asked = tmp_path / "asked"
    for name, does in {"squeue": f"touch {asked}; exec sleep 300", "scontrol": "exit 1"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    config = load_config(TrainingConfig, run / "config.yaml", ["steps=1000000"])
    (run / "config.yaml").write_text(config_yaml(config))
    plan_job(SlurmFolder(run), "df-run-1-train", "train", 0, ranks=True)
    words = [str(run), "df-run-1-train"]
    with start(
        "dinoforge.slurm.node.worker", words, SLURM_JOB_ID="7", SLURM_PROCID="0", **path
    ) as rank:
        try:
            wait_for(asked.exists, 60, "a question to SLURM")
            wait_for((run / "metrics.jsonl").exists, 100, "the first steps")
            rank.send_signal(signal.SIGUSR2)
            assert rank.wait(60) == 75
        finally:
            rank.kill()
    events = [line["event"] for line in read_lines(SlurmFolder(run).attempt("train", 0))]
    assert events == ["start", "signal", "end"]
    assert list((run / "checkpoints").glob("step-*/manifest.json"))
