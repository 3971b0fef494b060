"""Commands and standard input as sources: copied once, and no failure passes."""

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from shard_sets import samples_of, write_tar

from dinoforge.cli.main import main
from dinoforge.errors import UsageError
from dinoforge.remote.urls import url_faults
from dinoforge.sources.streams import copy_streams, find_stream_copy


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "in/a b.tar", samples_of(0, 5))


def shards(folder):
    return {path.name: path.read_bytes() for path in (folder / "shards").glob("*.tar")}


@pytest.mark.parametrize("command", ["cat {}", "gzip -c {} | cat", "true && cat {} -"])
def test_shards_of_a_command_are_those_of_its_tar(tar, tmp_path, command):
    stream = f"pipe:{command.format(shlex.quote(str(tar)))}"
    assert main(["shard", str(tar), f"out={tmp_path / 'local'}"]) == 0
    assert main(["shard", stream, f"out={tmp_path / 'piped'}"]) == 0
    assert shards(tmp_path / "local") == shards(tmp_path / "piped")
    # Finished or killed, it is not read again.
    tar.unlink()
    assert main(["shard", stream, f"out={tmp_path / 'piped'}"]) == 0


def test_a_curation_of_a_command_is_that_of_its_tar(tar, tmp_path):
    for name, source in (("local", str(tar)), ("piped", f"pipe:cat {shlex.quote(str(tar))}")):
        words = [f"sources={json.dumps([{'paths': [source]}])}", "retrieve.mode=none"]
        out = f"out={tmp_path / name}"
        assert main(["curate", *words, "filter.min_side=8", f"data.root={tmp_path}", out]) == 0
    assert shards(tmp_path / "local") == shards(tmp_path / "piped")
    assert shards(tmp_path / "local")


def test_shards_of_standard_input(tar, tmp_path):
    program = "import sys; from dinoforge.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "shard", "-", f"out={tmp_path / 'run'}"]
    with tar.open("rb") as file:
        assert subprocess.run(command, stdin=file, capture_output=True).returncode == 0
    assert main(["shard", str(tar), f"out={tmp_path / 'local'}"]) == 0
    assert shards(tmp_path / "local") == shards(tmp_path / "run")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("cat {}; exit 3", "exit code 3"),
        ("false | cat {}", "exit code 1"),  # the status of a pipeline is not that of its end alone
        ("cat {} | head -c 3000", "no whole tar"),
        ("head -c 1536 {}", "no whole tar"),  # between two members
        ("gzip -c {} | head -c 900", "no whole tar"),
        ("kill -9 $$", "exit code -9"),
        ("true", "it is empty"),
        ("echo no tar", "it is no tar"),
        ("none-such-command", "exit code 127"),
    ],
)
def test_a_command_that_fails_is_one_line_and_leaves_no_copy(tar, tmp_path, command, what, capfd):
    stream = f"pipe:{command.format(shlex.quote(str(tar)))}"
    run = tmp_path / "run"
    assert main(["shard", stream, f"out={run}"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert what in lines[0]
    assert str(tar) not in lines[0]
    assert find_stream_copy(stream, run) is None
    assert not list((run / "shards").glob("*.tar"))


def test_standard_input_that_is_cut_or_closed(tar, tmp_path, monkeypatch):
    class Input:
        buffer = io.BytesIO(tar.read_bytes()[:2000])

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdin", Input())
    with pytest.raises(UsageError, match="no whole tar"):
        copy_streams(["-"], tmp_path / "run")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="is a terminal"):
        copy_streams(["-"], tmp_path / "run")


def test_equal_streams_are_equal_sources(tar, tmp_path):
    for name in ("one", "two"):
        copy_streams([f"pipe:cat {shlex.quote(str(tar))}"], tmp_path / name)
    copies = [find_stream_copy(f"pipe:cat {shlex.quote(str(tar))}", tmp_path / "one")]
    copies += [find_stream_copy(f"pipe:cat {shlex.quote(str(tar))}", tmp_path / "two")]
    assert copies[0].name == copies[1].name
    assert copies[0].stat().st_mtime_ns == copies[1].stat().st_mtime_ns == 0
    assert copies[0].read_bytes() == tar.read_bytes()


@pytest.mark.parametrize(
    "command",
    [
        "curl https://me:hunter2@host/x.tar",
        "curl 'https://host/x.tar?X-Amz-Signature=hunter2'",
        "curl -H 'Authorization: Bearer hunter2' https://host/x.tar",
        "env TOKEN=hunter2 fetch x",
    ],
)
def test_credentials_in_a_command_are_refused(command, tmp_path, capsys):
    assert main(["shard", f"pipe:{command}", f"out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "the command in `sources` holds credentials" in error
    assert "hunter2" not in error
    assert not (tmp_path / "run").exists()


def test_variables_and_other_queries_are_no_credentials():
    for command in (
        "curl -H 'Authorization: Bearer $TOKEN' 'https://host/x?name=1'",
        "aws s3 cp s3://bucket/tokens.tar -",
        "env TOKEN=$TOKEN fetch x",
    ):
        assert not list(url_faults("sources", [f"pipe:{command}"], streams=True)), command


@pytest.mark.parametrize("word", ["-", "pipe:cat x.tar"])
def test_other_commands_read_no_streams(word, tmp_path, capsys):
    tiny = Path(__file__).parents[1] / "training/tiny.yaml"
    for words in (
        ["embed", word, "--out", str(tmp_path / "run")],
        ["train", str(tiny), f"data.paths={json.dumps([word])}", f"out={tmp_path / 'run'}"],
        ["evaluate", "cifar10_cpu", f"train={json.dumps([word])}", f"out={tmp_path / 'run'}"],
    ):
        assert main(words) == 2
        assert "names a stream, which is read only once" in capsys.readouterr().err
