"""Heads of DINO's eval_linear.py: read in the layout of its features, or refused."""

import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.linear_files import read_dino_head
from dinoforge.evaluation.methods.linear_grid import Slots

WIDTH, CLASSES = 6, 3


def write_head(path, columns):
    """Write a checkpoint as the script does; return its layer."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(columns, CLASSES)
    state = {f"module.linear.{name}": tensor for name, tensor in layer.state_dict().items()}
    torch.save({"epoch": 100, "state_dict": state, "optimizer": {}, "best_acc": 77.0}, path)
    return layer


@pytest.mark.parametrize(("blocks", "average_patches"), [(4, False), (1, False), (1, True)])
def test_a_head_scores_as_in_its_script(tmp_path, blocks, average_patches):
    layer = write_head(tmp_path / "a.pth", WIDTH * (blocks + average_patches))
    slots_nSD = torch.randn(5, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    # Of the script: class tokens of the last blocks, and each beside the mean of the patches.
    features = slots_nSD[:, 4 - blocks : 4].flatten(1)
    if average_patches:
        features = torch.stack([features, slots_nSD[:, 4]], dim=-1).flatten(1)
    probe = read_dino_head(
        tmp_path / "a.pth",
        Slots(4, has_patch_mean=True, dim=WIDTH),
        blocks=blocks,
        average_patches=average_patches,
        num_classes=CLASSES,
    )
    torch.testing.assert_close(probe.scores(slots_nSD), layer(features).detach())


def test_what_is_no_head_of_these_features_is_refused(tmp_path):
    write_head(tmp_path / "a.pth", WIDTH)
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "b.pth")
    slots = Slots(4, has_patch_mean=True, dim=WIDTH)
    for name, reported in (("a", r"\[3, 6\], these .* need \[3, 24\]"), ("b", "no linear.weight")):
        with pytest.raises(UsageError, match=reported):
            read_dino_head(
                tmp_path / f"{name}.pth", slots, blocks=4, average_patches=False, num_classes=3
            )
