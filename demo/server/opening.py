"""From folders and options to a `Site`: networks are loaded, indexes opened and compared."""

from collections.abc import Sequence
from pathlib import Path

from dinoforge.demo.index.reader import open_index
from dinoforge.demo.network import open_network
from dinoforge.demo.server.faces import FaceGate, Mode
from dinoforge.demo.server.features import FeatureCache, Side
from dinoforge.demo.server.site import Site
from dinoforge.demo.server.workers import Worker
from dinoforge.processes import usable_cores
from dinoforge.runs import read_recipe

__all__ = ["open_site"]

_PATCHES = 37  # per side of a square: 518 pixels for patches of 14


def open_site(
    folders: Sequence[Path],
    *,
    model: str | None = None,
    size: int = 0,
    threads: int = 0,
    faces: Mode = "refuse",
    blur_collection: bool = False,
) -> Site:
    """Open one index, or two to compare, each with the network that made it.

    ``model`` is where the network of the first index is now; ``size`` that of `patch_grid`, for
    pictures of clients, 0: 37 patches per side; ``threads`` those of the network, 0: all cores.
    ``faces`` is for uploads, ``blur_collection`` for what is shown of the collection.

    Raises
    ------
    UsageError
        If an index or a network cannot be opened, or they do not belong together.
    """
    import torch

    torch.set_num_threads(threads or usable_cores())
    gate, shown = FaceGate(faces), FaceGate("blur" if blur_collection else "off")
    cache, worker = FeatureCache(), Worker("the network")
    sides = []
    for number, folder in enumerate(folders):
        open_index(folder)  # first: without one there is no network either
        recipe = read_recipe(folder)
        spec = model if number == 0 and model else recipe["encoder"]
        network = open_network(spec, precision=recipe["precision"])  # which changes its vectors
        own_size = size or _PATCHES * network.patch_size
        sides.append(Side(network, open_index(folder, network), own_size, cache, worker))
    return Site(tuple(sides), gate, shown, worker)
