"""Which join is chosen, by the work that it takes."""

import pytest

from dinoforge.curation.policies.joins import cells_work, choose_cells, exact_work
from dinoforge.neighbors.cells import choose_num_cells


@pytest.mark.parametrize(
    ("num", "dim", "by_cells"),
    [
        *((100, 512, False), (1_000_000, 512, False), (3_900_000, 512, False)),
        *((4_100_000, 512, True), (5_500_000, 256, False), (5_800_000, 256, True)),
        (100_000_000, 128, True),
    ],
)
def test_auto_is_exact_up_to_a_few_million_images(num, dim, by_cells):
    cells = choose_cells(num, dim, "auto", num_cells=0, r=4)
    assert cells == (choose_num_cells(num, 4) if by_cells else 0)


def test_the_recipe_forces_a_join_and_a_number_of_cells():
    assert choose_cells(10**9, 512, "exact", num_cells=7, r=4) == 0
    assert choose_cells(1000, 512, "cells", num_cells=7, r=4) == 7
    assert choose_cells(1000, 512, "cells", num_cells=0, r=2) == choose_num_cells(1000, 2)
    assert choose_cells(5, 512, "cells", num_cells=7, r=4) == 5


def test_work_counts_multiplications():
    assert exact_work(10, 3) == 45 * 3
    # 48 rows per cell in 5 iterations of 2 cells; 10 rows with 2 cells; in cells, 2.25 times.
    assert cells_work(10, 3, 2, 1) == 3 * (48 * 2 * 2 * 5 + 10 * 2 + 2.25 * 100 / 4)


def test_cells_save_more_the_larger_the_pool():
    saved = [
        exact_work(n, 512) / cells_work(n, 512, choose_num_cells(n, 4), 4)
        for n in (10**6, 10**7, 10**8)
    ]
    assert saved == sorted(saved)
    assert saved[0] > 20
