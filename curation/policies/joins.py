"""How the pairs of images are found: all compared, or by cells, by the work that it takes.

Work is counted in multiplications. Comparing all n images of d dimensions takes ``n^2 d / 2``. By
cells it is the sum of three: training K centroids on a sample, ``n K d`` to find the nearest cells
of every image, and comparing inside cells, ``n^2 r^2 d / (2 K)`` if each image is in r of them and
cells were equally large; uneven ones, and the comparison of every product, cost 2.25 times as much.
"""

from typing import Literal

from dinoforge.neighbors.cells import SAMPLE_PER_CELL, choose_num_cells

__all__ = ["cells_work", "choose_cells", "exact_work"]

# The exact join up to 4 million images of 512 dimensions: 12 hours of a core at 100 GFLOP/s, or
# minutes of a GPU; a duplicate that is missed costs more.
_EXACT_WORK = 4.1e15
_TRAINING_ITERATIONS = 5
_INSIDE = 2.25


def exact_work(num: int, dim: int) -> float:
    """Count the multiplications of comparing all of ``num`` images."""
    return num * (num - 1) / 2 * dim


def cells_work(num: int, dim: int, num_cells: int, r: int) -> float:
    """Count the multiplications of the join by cells: training, assignment, comparison."""
    training = SAMPLE_PER_CELL * num_cells**2 * _TRAINING_ITERATIONS
    return dim * (training + num * num_cells + _INSIDE * (num * r) ** 2 / (2 * num_cells))


def choose_cells(
    num: int,
    dim: int,
    join: Literal["auto", "exact", "cells"],
    *,
    num_cells: int,
    r: int,
    others: int = 0,
) -> int:
    """Return the number of cells of a join of ``num`` images; 0: compare all.

    ``num_cells`` 0 is the number that costs least. ``auto`` takes the exact join where its work is
    bearable, or less than that by cells. The images are also joined with so many ``others``.
    """
    cells = min(num_cells or choose_num_cells(num, r), num)
    if join == "auto":
        exact = exact_work(num, dim) + num * others * dim
        join = "exact" if exact <= max(_EXACT_WORK, cells_work(num, dim, cells, r)) else "cells"
    return cells if join == "cells" else 0
