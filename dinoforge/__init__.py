"""dinoforge: from a pile of images to a vision foundation model, with evidence at every step.

This package is the ground floor: command line, config, errors, run folder and stages, tables,
randomness, images, shards, the ViT, encoders, neighbors and pages. It knows no stage of the
curation, the training or the evaluation by name (only ``dinoforge.cli`` does).
"""

__version__ = "0.1.0"
