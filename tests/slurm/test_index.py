"""`dinoforge index` as arrays on a real SLURM: the bytes of a single process."""

import pytest
from waiting import wait_for_end

from dinoforge.cli.main import main
from dinoforge.demo.index.reader import open_index
from dinoforge.models.config import VitConfig
from dinoforge.models.vit import build_vit
from dinoforge.models.weights import save_backbone
from dinoforge.slurm.store.events import read_attempts
from dinoforge.slurm.store.layout import SlurmFolder

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(480)]


def files_of(folder):
    """Bytes of what the stages wrote; markers have the speed, too."""
    every = (folder / "index").rglob("part-*")
    return {str(p.relative_to(folder)): p.read_bytes() for p in every if p.suffix != ".done"}


def test_arrays_write_the_index_of_one_process(bed, run, profile, photos, tmp_path, capsys):
    config = VitConfig(width=32, depth=2, heads=2, patch_size=8, image_size=32)
    weights = tmp_path / "vit.safetensors"
    save_backbone(weights, build_vit(config, seed=0), {"step": "0"})
    words = [str(photos), "--encoder", str(weights), "patches.size=48", "partition_images=8"]
    words += ["workers=0"]
    assert main(["index", *words, f"out={tmp_path / 'here'}"]) == 0
    code = main(["index", *words, f"out={run}", "--on", f"slurm:{profile()}"])
    assert code == 0, capsys.readouterr().err
    state = wait_for_end(run, 400)
    assert (state.state, state.why) == ("finished", [])
    folder = SlurmFolder(run)
    attempts = [read_attempts(folder.attempt("embed", part)) for part in range(3)]
    assert [[one.outcome for one in some] for some in attempts] == [["done"]] * 3
    assert files_of(run) == files_of(tmp_path / "here")
    assert open_index(run).card | {"date": ""} == open_index(tmp_path / "here").card | {"date": ""}
