"""The training of dinoforge: DINO + iBOT + KoLeo as in DINOv2; start reading at `training.loop`."""
