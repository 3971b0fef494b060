"""dinoforge: from a pile of images to a vision foundation model, with evidence at every step.

The modules of this folder are the ground floor; they know none of the packages linked into it
(``cli``, ``curation``, ``training``, ``evaluation``, ``demo``, ``slurm``).
"""

__version__ = "0.1.0"
