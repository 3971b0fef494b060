"""What a user gets wrong with `dinoforge shard` is one line and exit code 2, before any shard."""

import json

import pytest
from shard_sets import samples_of, write_tar, written

from dinoforge.cli.main import main


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "ids.txt").write_text("nowhere\n")
    (tmp_path / "ids.csv").write_text("ky,b\n1,2\n")
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "theirs/shards").mkdir(parents=True)
    (tmp_path / "theirs/shards/pool-000000.tar").write_bytes(b"somebody's")
    write_tar(tmp_path / "in/a.tar", samples_of(0, 3))
    write_tar(tmp_path / "in/b.tar", samples_of(2, 4))
    return str(write_tar(tmp_path / "one.tar", samples_of(0, 3)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such file or folder - nowhere - check the path"),
        (["empty"], "no images and no tars - empty - "),
        ([], "no recipe given - command line - "),
        (["shard_images=3"], "no sources - "),
        (["one.tar", "shard_images=0"], "`shard_images` is 0 - command line - give 1 or more"),
        (["one.tar", "shard_mib=0"], "`shard_mib` is 0 - command line - give 1 or more"),
        (["one.tar", "shard_image=3"], "unknown key `shard_image` (did you mean `shard_images`?)"),
        (["one.tar", "order=mixed"], "`order` got 'mixed', need listed | random"),
        (["one.tar", "ids.file=ids.txt"], "none of 1 ids is that of one of 3 samples - ids.txt - "),
        (["one.tar", "ids.file=none.txt"], "the list of ids is empty - none.txt - "),
        (["one.tar", "ids.file=gone.txt"], "no such list of ids - gone.txt - check the path"),
        (
            ["one.tar", "ids.file=ids.csv"],
            "no column `key` in the list of ids (did you mean `ky`?)",
        ),
        (["one.tar", "ids.file=u.npy"], "`ids.file` is a .npy, whose ids are 128-bit numbers"),
        (["one.tar", "ids.field=uid"], "`ids.field` is not used: `ids.file` is empty"),
        (["in"], "1 keys occur more than once: 00000002 (2) - in - give repeated_keys=rename"),
        (["one.tar", "out=theirs"], "the folder holds files that `dinoforge shard` did not write"),
        (["in/a.tar", "out=in"], None),
        (["in/shards", "out=in"], "the source `in/shards` is part of the run folder"),
    ],
)
def test_a_mistake_is_one_line(source, capsys, words, message):
    out = [] if any(word.startswith("out=") for word in words) or not words else ["out=run"]
    code = main(["shard", *words, *out])
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if message is None:
        assert (code, errors) == (0, [])
        return
    assert code == 2
    assert len(errors) == 1
    assert errors[0].removeprefix("error: ").startswith(message), errors[0]
    assert not any("Traceback" in line for line in lines)


def test_the_command_reads_sources_a_recipe_and_keys_in_any_order(source, tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("shard_images: 2\nname: mine\n")
    assert main(["shard", "one.tar", "my.yaml", "out=run", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [shard["shard"] for shard in summary["shards"]] == ["mine-000000.tar", "mine-000001.tar"]
    assert dict(written(tmp_path / "run")) == samples_of(0, 3)
    assert main(["shard", "one.tar", "my.yaml", "out=run", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "shards verified" in shown
    assert main(["runs", "."]) == 0
    assert "shard" in capsys.readouterr().out


def test_a_folder_of_another_command_is_refused(source, tmp_path, capsys):
    facts = {"command": "curate", "versions": {"dinoforge": "0"}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(facts))
    assert main(["shard", "one.tar", "out=run"]) == 2
    assert "the folder holds a run of `dinoforge curate`" in capsys.readouterr().err


def test_a_cluster_would_run_its_stages_as_arrays(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["shard", "one.tar", "out=run", "--on", "slurm:cpu", "--dry-run", "--json"]
    assert main(words) == 0
    plan = json.loads(capsys.readouterr().out)
    stages = [row["stage"] for row in plan["graph"]]
    assert stages == ["discover", "index", "order", "scatter", "write", "verify"]
