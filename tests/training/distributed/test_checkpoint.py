"""Checkpoints on disk: what is kept, what is refused, what happens when the disk is full."""

import json
import resource
from pathlib import Path

import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.steps import step_name
from dinoforge.training.build import build_method, build_optimizer
from dinoforge.training.config import CheckpointConfig
from dinoforge.training.distributed.checkpoint import Checkpoints, read_whole
from dinoforge.training.export import gather_backbone, write_backbone


@pytest.fixture
def parts(tiny):
    config = tiny()
    method = build_method(config)
    return method, build_optimizer(config, method)


def save(folder, step, parts, **policy):
    """Write and wait."""
    checkpoints = Checkpoints(folder, CheckpointConfig(**policy))
    checkpoints.save(step, *parts)
    checkpoints.finish()
    return folder / step_name(step)


def load_latest(folder, parts):
    return Checkpoints(folder, CheckpointConfig()).load_latest(*parts)


def folders(folder):
    return [int(path.name[5:]) for path in sorted(folder.iterdir())]


def keep(folder, parts, steps, **policy):
    for step in steps:
        save(folder, step, parts, **policy)
    return folders(folder)


def test_the_newest_are_kept(tmp_path, parts):
    assert keep(tmp_path, parts, range(1, 8), keep=3) == [5, 6, 7]


def test_multiples_are_kept_for_good(tmp_path, parts):
    assert keep(tmp_path, parts, range(1, 8), keep=1, keep_every=3) == [3, 6, 7]


def test_a_damaged_later_checkpoint_does_not_crowd_out_good_ones(tmp_path, parts):
    keep(tmp_path, parts, [30])
    (tmp_path / step_name(30) / "manifest.json").write_text("{")
    assert load_latest(tmp_path, parts) == 0
    assert keep(tmp_path, parts, [10, 20], keep=1) == [20, 30]
    assert load_latest(tmp_path, parts) == 20
    assert keep(tmp_path, parts, [30], keep=1) == [30]  # replaced when the run gets there
    assert load_latest(tmp_path, parts) == 30


def test_backbones_of_an_abandoned_future_do_not_crowd_out_new_ones(tiny, tmp_path, parts):
    config = tiny("checkpoint.keep=1", "checkpoint.export_every=20")
    for step in (0, 30, 10, 20, 25):
        path = write_backbone(tmp_path, step, gather_backbone(parts[0]), config)
        assert path.is_file()
    assert folders(tmp_path / "export") == [0, 20, 25, 30]


def test_drafts_of_a_killed_process_are_swept_and_strange_names_left_alone(tmp_path, parts):
    (tmp_path / f".{step_name(3)}.tmp-1").mkdir()
    (tmp_path / "step-notes").mkdir()
    assert load_latest(tmp_path, parts) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step-notes"]


def test_a_full_disk_is_reported_in_one_line_and_leaves_the_older_ones(tmp_path, parts):
    save(tmp_path, 1, parts)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(UsageError, match=r"checkpoint not written.*older checkpoints are"):
            save(tmp_path, 2, parts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in tmp_path.iterdir()] == [step_name(1)]
    assert load_latest(tmp_path, parts) == 1


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tiny, tmp_path, parts):
    save(tmp_path, 1, parts)
    other = build_method(tiny("dino_head.prototypes=32"))
    named = r"another architecture: .*dino_head\.last_layer\.weight_g"
    with pytest.raises(UsageError, match=named):
        load_latest(tmp_path, (other, build_optimizer(tiny(), other)))


def test_everything_a_resume_needs_is_in_the_file(tmp_path, parts):
    method, optimizer = parts
    for parameter in method.student.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    method.dino_center.center += 1
    path = save(tmp_path, 5, parts)
    tensors = read_whole(path)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 5
    assert manifest["files"].keys() == {p.name for p in path.iterdir()} - {"manifest.json"}
    assert {len(facts["sha256"]) for facts in manifest["files"].values()} == {64}
    for name, parameter in method.student.named_parameters():
        assert torch.equal(tensors[f"method/student.{name}"], parameter)
        assert tensors[f"optimizer/step/{name}"] == 1
        moments = optimizer.state[parameter]
        assert torch.equal(tensors[f"optimizer/exp_avg/{name}"], moments["exp_avg"])
        assert torch.equal(tensors[f"optimizer/exp_avg_sq/{name}"], moments["exp_avg_sq"])
    assert torch.equal(tensors["method/dino_center.center"], torch.ones(1, 24))
    assert any(name.startswith("method/teacher.backbone.") for name in tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_resume_on_a_gpu_has_all_state_there_and_goes_on(tiny, tmp_path):
    """AdamW's fused update refuses a step counter on the CPU."""

    def make():
        method = build_method(tiny("device=cuda")).to("cuda")
        return method, build_optimizer(tiny("device=cuda"), method)

    def update(method, optimizer):
        for parameter in method.student.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    first, again = make(), make()
    update(*first)
    save(tmp_path, 1, first)
    load_latest(tmp_path, again)
    assert {v.device.type for s in again[1].state.values() for v in s.values()} == {"cuda"}
    for parts in (first, again):
        update(*parts)
    for name, tensor in first[0].state_dict().items():
        assert torch.equal(tensor, again[0].state_dict()[name]), name


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(tmp_path, parts):
    place = tmp_path / "file"
    place.write_text("not a folder")
    with pytest.raises(UsageError, match="checkpoint not written: Not a directory"):
        save(Path(place), 1, parts)
