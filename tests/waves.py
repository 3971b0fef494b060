"""Pictures of waves: as many concepts as wanted, and as many pictures of each."""

import numpy as np


def draw(concept, number):
    """A picture of waves: those of its concept, and weaker ones of its own."""
    rows, columns = np.mgrid[0:32, 0:32] / 32
    picture = np.zeros((32, 32, 3))
    for key, strength in ((concept, 1.0), (1000 + number, 0.7)):
        rng = np.random.default_rng(key)
        for band in range(3):
            for u, v, phase in rng.uniform(0, 1, (3, 3)) * [4, 4, 2 * np.pi]:
                wave = np.sin(2 * np.pi * (u * rows + v * columns) + phase)
                picture[:, :, band] += strength * wave
    return np.clip(127 + 30 * picture, 0, 255).astype(np.uint8)
