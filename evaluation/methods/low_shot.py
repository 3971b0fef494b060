"""Few labeled images per class: the draws of DINOv2's few-shot k-NN, and MSN's logistic regression.

Shapes: n images of train, q test images, T tries or splits, D dimensions.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dinoforge.encoders.encoder import unit_rows
from dinoforge.evaluation.knn import find_neighbors, knn_classify
from dinoforge.evaluation.logistic import Logistic, fit_logistic
from dinoforge.evaluation.settings import LowShotConfig

__all__ = ["center_rows", "draw_few", "few_shot_knn", "few_shot_ks", "msn_low_shot"]

_log = logging.getLogger(__name__)


def draw_few(labels: NDArray[np.int64], per_class: int, seed: int) -> NDArray[np.int64]:
    """Draw ``per_class`` rows of each class, class by class ascending, as DINOv2's k-NN does.

    The draws are those of ``torch.randperm`` after ``manual_seed(seed)``, from a generator of their
    own. A class with fewer images gives all it has, which is logged. Rows without a class (-1) are
    never drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn, short = [], 0
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        order = torch.randperm(len(rows), generator=generator).numpy()
        drawn.append(rows[order[:per_class]])
        short += len(rows) < per_class
    if short:
        _log.warning("%d classes have fewer than %d images: all of them are used", short, per_class)
    return np.concatenate(drawn) if drawn else np.empty(0, np.int64)


def few_shot_ks(ks: Sequence[int], per_class: int) -> list[int]:
    """Return the numbers of neighbors for so few images: those up to ``per_class``, and itself."""
    return sorted({k for k in ks if k <= per_class} | {per_class})


def few_shot_knn(  # noqa: PLR0913 - two sets of rows, the draws, and the parameters of k-NN
    bank: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    draws: Sequence[NDArray[np.int64]],
    *,
    ks: Sequence[int],
    temperature: float,
    kept: Sequence[int] | None = None,
    device: str = "cpu",
) -> dict[int, NDArray[np.int64]]:
    """Classify queries by the nearest of a few images of each class, for T draws of them.

    ``bank`` is ``[n, D]``, ``queries`` ``[q, D]``; ``draws`` are rows of the bank (`draw_few`),
    ``ks`` at most as many (`few_shot_ks`). With ``kept`` only these classes compete.

    Returns
    -------
    dict
        k -> predicted classes, int64 ``[T, q]``; the published number is the mean of their
        accuracies.
    """
    predicted: dict[int, list[NDArray[np.int64]]] = {k: [] for k in ks}
    for rows in draws:
        neighbors = find_neighbors(bank[rows], queries, k=max(ks), device=device)
        of_draw = knn_classify(neighbors, labels[rows], ks=ks, temperature=temperature, kept=kept)
        for k in ks:
            predicted[k].append(of_draw[k])
    return {k: np.stack(each) for k, each in predicted.items()}


def center_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract from every row its own mean and scale it to norm 1.

    This is what ``cyanure.preprocess(centering=True, normalize=True, columns=False)`` does, with
    which MSN prepares train and test features: nothing is estimated on either.
    """
    wide = features.astype(np.float64)
    return unit_rows(wide - wide.mean(axis=1, keepdims=True))


def msn_low_shot(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    splits: Sequence[NDArray[np.int64]],
    *,
    penalty: float = LowShotConfig.penalty,
    device: str = "cpu",
) -> list[Logistic]:
    """Fit classifiers to few labeled images (Assran et al. 2022, ``logistic_eval.py``).

    Multinomial logistic regression without bias on centered rows of norm 1: the mean of the
    cross-entropies + penalty / N * |W|^2 / 2 is minimized, to its optimum (published: to a relative
    duality gap of 1e-3). The default penalty is that of their README, divided by the number of
    images as their code does.

    Parameters
    ----------
    train : ndarray of float32
        ``[n, D]``.
    splits : sequence of ndarray of int64
        Rows of train, one array per split: three are published for each number of shots.

    Returns
    -------
    list of Logistic
        One per split, for test images that `center_rows` prepared; the published number is the mean
        of their accuracies.
    """
    rows = center_rows(train)
    # Divided by the penalty, times N: the sum of the cross-entropies has weight 1 / penalty.
    fits = [
        fit_logistic(rows[split], labels[split], [1.0 / penalty], bias=False, device=device)
        for split in splits
    ]
    return [fit for (fit,) in fits]
