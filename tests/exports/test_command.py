"""``dinoforge export``: runs and files, what is refused, whole folders or none."""

import json
import resource
import subprocess
import sys

import pytest
from evaluations import write_run
from optional import optional
from PIL import Image
from safetensors import safe_open

from dinoforge.cli.main import main
from dinoforge.exports import comparison, export
from dinoforge.files import temporary_name


def error_of(capsys, *words, code=2):
    assert main(["export", *map(str, words)]) == code
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    return line


def test_the_newest_export_of_a_run_or_the_named_step(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    out = tmp_path / "out"
    for option, step in (([], "100"), (["--step", "50"], "50")):
        words = ["export", run, *option, "--to", "hub", "--out", out, "--json"]
        assert main(list(map(str, words))) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == json.loads((out / "export.json").read_text())
        assert printed["source"]["step"] == step
        assert printed["backbone"] == "vit_d24x1_patch8"
        assert [(d["height"], d["width"]) for d in printed["differences"]] == [
            *[(24, 24)] * 2,
            *[(32, 8)] * 2,
        ]
        assert all(d["equal"] and d["relative"] <= 1e-5 for d in printed["differences"])
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


def test_the_terminal_names_the_sizes_that_agree_and_the_call(stored, tmp_path, capsys):
    optional("timm", "timm")
    assert main(["export", str(stored("offset")), "--to", "timm", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "48 x 48   class_token" in text
    assert (
        "equal only at 48 x 48 pixels: timm resamples positions as `size_antialias`, "
        "this backbone as `offset`"
    ) in text
    assert f'timm.create_model("local-dir:{tmp_path}", pretrained=True)' in text


def test_real_images(stored, tmp_path, capsys):
    words = ["export", str(stored("offset")), "--to", "hub", "--out", str(tmp_path / "out")]
    for number in range(8):
        image = Image.radial_gradient("L").rotate(45 * number)
        image.save(tmp_path / f"{number}.png")
        if number == 6:
            line = error_of(capsys, *words[1:], "--images", tmp_path)
            assert "need at least 8 images that can be decoded, got 7" in line
    assert main([*words, "--images", *map(str, tmp_path.glob("*.png"))]) == 0


def test_what_is_no_format_source_or_step_is_named(stored, tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    line = error_of(capsys, stored("rope"), "--to", "torchscrpt", *out)
    assert "unknown format `torchscrpt` (did you mean `torchscript`?) - --to - choose from " in line
    run = write_run(tmp_path / "run")
    line = error_of(capsys, run, "--to", "hub", "--step", "60", *out)
    assert "step 60 is not exported" in line
    assert line.endswith("choose from 0, 50, 100")
    (tmp_path / "empty").mkdir()
    line = error_of(capsys, tmp_path / "empty", "--to", "hub", *out)
    assert "no backbone: neither a training run with an export nor" in line
    line = error_of(capsys, stored("rope"), "--to", "hub", "--step", "60", *out)
    assert "only a training run has steps" in line
    line = error_of(capsys, stored("rope"), "--to", "hub", "--positions", "rop", *out)
    assert "unknown mode `rop` - --positions - choose from offset, " in line
    line = error_of(capsys, tmp_path / "none.pth", "--to", "hub", *out)
    assert "no such file or folder" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("timm", "timm", "timm"),
        ("hf", "transformers", "hf"),
        ("onnx", "onnxscript", "onnx"),
        ("onnx", "onnxruntime", "onnx"),
    ],
)
def test_a_missing_extra_is_named(stored, tmp_path, capsys, monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    line = error_of(capsys, stored("rope"), "--to", name, "--out", tmp_path / "out")
    if module == "onnxscript":
        optional("onnx", "onnx")
    assert f"{module} cannot be imported" in line
    assert line.endswith(f'pip install "dinoforge[{extra}]"')


def test_what_a_library_cannot_hold_is_named(stored, tmp_path, capsys):
    optional("timm", "timm")
    optional("transformers", "hf")
    out = ["--out", tmp_path / "out"]
    line = error_of(capsys, stored("rope"), "--to", "timm", *out)
    assert "timm does not support rotary positions, or a norm_eps of 1e-05 (always 1e-06)" in line
    assert line.endswith("choose from hf, hub, onnx, torchscript, dino")
    line = error_of(capsys, stored(ffn_ratio=3.3), "--to", "hf", *out)
    assert "hf does not support a feed-forward layer of hidden width 105 (no integer" in line
    line = error_of(capsys, stored("gated", ffn_ratio=3.3), "--to", "hf", *out)
    assert "hf does not support SwiGLU of hidden width 72" in line


def test_an_earlier_export_is_replaced_and_nothing_else(stored, tmp_path, capsys, monkeypatch):
    (tmp_path / "real").mkdir()
    out = tmp_path / "out"
    out.symlink_to("real")
    words = ["export", str(stored("offset")), "--to", "hub", "--out", str(out)]
    temporary = temporary_name(out.resolve()).name.rpartition("-")[0]
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / f"{temporary}-{process.pid}").mkdir()  # of a killed export
    # Of an export that runs, of another folder, of another machine.
    others = [f"{temporary}-1", ".real.timm.tmp-host-1", ".real.tmp-host-1"]
    for name in others:
        (tmp_path / name).mkdir()
    assert main(words) == 0
    (out / "hubconf.py").write_text("")
    (out / "__pycache__").mkdir()
    assert main(words) == 0
    files = ["dinoforge_vit_d32x2_patch8.pth", "export.json", "hubconf.py", "vit.py"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert (out / "hubconf.py").stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {*others, "real", "out"}

    (out / "README.md").write_text("a card")
    assert "holds files that no export wrote (README.md) - " in error_of(capsys, *words[1:])
    (out / "README.md").rename(tmp_path / "card")
    assert "not a folder" in error_of(capsys, *words[1:-1], tmp_path / "card")
    monkeypatch.chdir(out)
    assert "the working folder cannot be replaced" in error_of(capsys, *words[1:-1], ".")
    (out / "export.json").write_text("[]")
    assert "(dinoforge_vit_d32x2_patch8.pth, export.json, hubconf.py, ...)" in error_of(
        capsys, *words[1:]
    )


def test_a_full_disk_is_one_line_that_leaves_nothing(stored, tmp_path, capsys):
    path, limit = stored("offset"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limit[1]))
    try:
        for name in ("hub", "torchscript"):
            line = error_of(capsys, path, "--to", name, "--out", tmp_path / "out")
            assert "cannot write: File too large" in line
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())


def test_other_features_are_an_error_that_leaves_nothing(stored, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "TOLERANCE", 0)
    out = tmp_path / "out"
    words = ["export", str(stored("offset")), "--to", "hub", "--out", str(out), "--json"]
    # Rounding alone is accepted, and reported.
    assert main(words) == 0
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert all(0 < d["rounding"] < 1e-5 for d in differences)
    monkeypatch.setattr(comparison, "_ROUNDINGS", 0)
    out.rename(tmp_path / "before")
    line = error_of(capsys, *words[1:], code=1)
    assert "hub does not give the same features: class_token differs by " in line
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


def test_a_format_that_writes_other_weights_is_found_out(source, tmp_path, monkeypatch):
    def write(source, folder):
        config = source.backbone.config
        export.hub.write_hub(source, folder)
        text = (folder / "hubconf.py").read_text()
        assert f'"norm_eps": {config.norm_eps}' in text
        (folder / "hubconf.py").write_text(text.replace('"norm_eps": 1e-06', '"norm_eps": 1e-05'))

    changed = export.Format(write, export.hub.load_hub, "")
    monkeypatch.setitem(export.FORMATS, "hub", changed)
    with pytest.raises(export.DinoforgeError, match="the same features"):
        export.export_backbone(source("offset"), "hub", tmp_path / "out")


def test_the_facts_of_the_source_go_with_the_weights(stored, tmp_path):
    optional("timm", "timm")
    assert main(["export", str(stored("gated")), "--to", "timm", "--out", str(tmp_path)]) == 0
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        facts = file.metadata()
    assert (facts["step"], facts["license"], facts["format"]) == ("7", "Apache-2.0", "pt")
    assert (
        facts["source_sha256"]
        == json.loads((tmp_path / "export.json").read_text())["source"]["source_sha256"]
    )
