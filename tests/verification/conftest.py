"""Pictures made by code, with detail at all scales."""

import numpy as np
import pytest
from optional import optional
from PIL import Image, ImageDraw

optional("cv2", "verify")


def _leaves(seed, size=(260, 220), num=900):
    """Overlapping leaves of every size, the same for the same seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    for radius in 40 / (1 + 12 * rng.random(num)):
        x, y = rng.random(2) * size
        box = (x - radius, y - radius * 0.7, x + radius, y + radius * 0.7)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


@pytest.fixture(scope="session")
def leaves():
    return _leaves
