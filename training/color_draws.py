"""What happens to the colors of each crop: drawn by (seed, image, epoch), never by worker."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

from dinoforge.randomness import uniforms
from dinoforge.training.crops import CropsConfig

__all__ = ["ColorDraws", "draw_colors"]

_ORDERS = np.array(list(permutations(range(4))), np.int8)
_NUM_DRAWS = 10  # a crop


@dataclass(frozen=True)
class ColorDraws:
    """What happens to the colors of n crops."""

    order: npt.NDArray[np.int8]  # [n, 4]: 0 brightness, 1 contrast, 2 saturation, 3 hue, -1 nothing
    factors: npt.NDArray[np.float32]  # [n, 4]: three blend factors; hue in whole 1/256 circles
    gray: npt.NDArray[np.bool_]  # [n]
    sigma: npt.NDArray[np.float32]  # [n]: of the blur, pixels; 0 = not blurred
    solarize: npt.NDArray[np.bool_]  # [n]

    def take(self, rows: npt.NDArray[np.int64]) -> "ColorDraws":
        """Pick the draws of some crops."""
        return ColorDraws(
            self.order[rows],
            self.factors[rows],
            self.gray[rows],
            self.sigma[rows],
            self.solarize[rows],
        )

    def alike_first(self) -> npt.NDArray[np.int64]:
        """Order of the n crops that puts those with the same jitter order beside each other."""
        key = (self.order.astype(np.int64) + 1) @ np.array([125, 25, 5, 1])
        return np.lexsort((self.gray, self.sigma > 0, key))


def draw_colors(
    config: CropsConfig,
    seed: int,
    images: npt.NDArray[np.int64],
    epochs: npt.NDArray[np.int64],
) -> tuple[ColorDraws, ColorDraws]:
    """Draw the colors of all crops of some images.

    Parameters
    ----------
    config : CropsConfig
    seed : int
        Seed of the run.
    images, epochs : ndarray of int64
        ``[B]``: which image, in which pass over the data.

    Returns
    -------
    tuple of ColorDraws
        Global crops ``[2 B]`` and local crops ``[num_local B]``, crop-major.
    """
    num_views = 2 + config.num_local
    flat = uniforms(seed, "crops/color", images, epoch=epochs, count=num_views * _NUM_DRAWS)
    numbers = flat.reshape(len(images), num_views, _NUM_DRAWS).transpose(1, 0, 2)
    blur = config.blur_probs()
    view_blur = np.array([*blur[:2], *[blur[2]] * config.num_local])
    view_solarize = np.array([0.0, config.solarize_prob, *[0.0] * config.num_local])
    return (
        _draws(config, numbers[:2], view_blur[:2], view_solarize[:2]),
        _draws(config, numbers[2:], view_blur[2:], view_solarize[2:]),
    )


def _draws(
    config: CropsConfig,
    numbers: npt.NDArray[np.float64],
    blur: npt.NDArray[np.float64],
    solarize: npt.NDArray[np.float64],
) -> ColorDraws:
    """Turn uniform numbers ``[views, B, 10]`` into draws, crop-major."""
    blur, solarize = np.repeat(blur, numbers.shape[1]), np.repeat(solarize, numbers.shape[1])
    numbers = numbers.reshape(-1, _NUM_DRAWS)
    strengths = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    order = _ORDERS[(numbers[:, 1] * len(_ORDERS)).astype(np.int64)]
    order[numbers[:, 0] >= config.jitter_prob] = -1
    order[np.isin(order, np.flatnonzero(strengths == 0))] = -1
    # torchvision draws a blend factor from [max(0, 1 - strength), 1 + strength].
    low = np.where(np.arange(4) < 3, np.maximum(0, 1 - strengths), -strengths)
    high = np.where(np.arange(4) < 3, 1 + strengths, strengths)
    factors = low + (high - low) * numbers[:, 2:6]
    factors[:, 3] = np.trunc(factors[:, 3] * 255)
    thin, wide = config.blur_sigma
    sigma = np.where(numbers[:, 7] < blur, thin + (wide - thin) * numbers[:, 8], 0)
    return ColorDraws(
        order=order,
        factors=factors.astype(np.float32),
        gray=numbers[:, 6] < config.grayscale_prob,
        sigma=sigma.astype(np.float32),
        solarize=numbers[:, 9] < solarize,
    )
