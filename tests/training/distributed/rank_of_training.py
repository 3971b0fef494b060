"""One rank of `test_ranks`: a process of its own, so that the exchange between ranks is real.

Usage: rank_of_training.py RECIPE FOLDER NAME:STEPS:KEY=VALUE;... [...]

RANK, WORLD_SIZE and so on come from the environment. Each variant NAME is trained up to STEPS, and
rank 0 writes the losses of every step, the whole gradients of steps 1, 2 and every fifth, and the
weights at the end to NAME.safetensors.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from dinoforge.config import load_config
from dinoforge.training.config import TrainingConfig
from dinoforge.training.distributed.join import join_ranks
from dinoforge.training.distributed.ranks import rank
from dinoforge.training.loop import Trainer


def whole(tensor):
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone()


def run(config, out: Path, steps: int) -> dict[str, torch.Tensor]:
    result = {}
    trainer = Trainer(config, out)
    for batch, waited in trainer.batches():
        row = trainer.run_step(batch, waited)
        for key, value in row.items():
            if key.split("/")[0] in ("loss", "gradient", "teacher", "features"):
                result[f"{trainer.step:02d}/{key}"] = torch.tensor(value, dtype=torch.float64)
        # Gathering is slow; a wrong gradient of another step would change all later losses.
        if trainer.step <= 2 or trainer.step % 5 == 0:
            for name, parameter in trainer.method.student.named_parameters():
                if parameter.grad is not None:  # else it is frozen
                    result[f"{trainer.step:02d}/gradients/{name}"] = whole(parameter.grad)
        if trainer.step == steps:
            break
    for name, tensor in trainer.method.state_dict().items():
        result[f"end/{name}"] = whole(tensor)
    trainer.save()
    trainer.checkpoints.finish()
    return result


def main(recipe: str, folder: str, *variants: str) -> None:
    torch.set_num_threads(1)
    with join_ranks(torch.device("cpu"), 60):
        for variant in variants:
            name, steps, changes = variant.split(":", 2)
            config = load_config(TrainingConfig, Path(recipe), changes.split(";"))
            result = run(config, Path(folder) / name, int(steps))
            if rank() == 0:
                save_file(result, Path(folder) / f"{name}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
