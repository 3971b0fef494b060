"""Multinomial logistic regression on frozen features, to its optimum.

Minimizes C * (sum of cross-entropies) + |W|^2 / 2 over W ``[K, D]`` and an unpenalized bias (the
form of scikit-learn and of DINOv2, section 7.1) with L-BFGS in float64. The problem is solved in
coordinates in which its Hessian at W = 0 is the identity: along the principal axes of the
features, each scaled by its curvature. The optimum is the same and takes fewer steps.

Shapes: n rows, D dimensions, K classes, R principal axes.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.evaluation.metrics.classification import mean_of_present, most_likely, per_label
from dinoforge.evaluation.settings import LogisticConfig
from dinoforge.randomness import KeyedPermutation

__all__ = [
    "Chosen",
    "ChosenLabels",
    "Logistic",
    "choose_and_fit",
    "choose_and_fit_labels",
    "fit_logistic",
    "grid_of",
]

_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_MEMORY = 20  # pairs of steps that L-BFGS remembers
# Largest entry of the gradient relative to that at W = 0, which is the remaining step size in these
# coordinates.
_TOLERANCE = 1e-9
# A fit for predictions, which settle long before weights do, also ends when a step lowers the
# objective by less than this share: first while choosing C, then for the chosen C.
_DECREASE_OF_CHOICE = 1e-6
_DECREASE_OF_FINAL = 1e-9


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier."""

    weights: Floats  # [K, D]
    bias: Floats  # [K], mean 0
    classes: NDArray[np.int64]  # [K], ascending
    iterations: int

    def predict(self, x: NDArray[Any], kept: Sequence[int] | None = None) -> NDArray[np.int64]:
        """Return the class of every row, one of ``kept`` if given; of equal scores the smaller."""
        scores = np.asarray(x, np.float64) @ self.weights.T + self.bias
        return most_likely(scores, self.classes, kept)


@dataclass(frozen=True)
class ChosenLabels:
    """A classifier for each of several labels that an image may have together."""

    models: Sequence[Logistic | None]  # None: all rows had the label, or none
    c: float
    held_out_means: list[float]  # of the values of C tried, ascending

    def scores(self, x: NDArray[Any]) -> Floats:
        """Return the score of every row for every label, ``[n, K]``."""
        weights = np.zeros((len(self.models), x.shape[1]))
        bias = np.zeros(len(self.models))
        for row, model in enumerate(self.models):
            if model is not None:
                weights[row] = model.weights[1] - model.weights[0]
                bias[row] = model.bias[1] - model.bias[0]
        return np.asarray(x, np.float64) @ weights.T + bias


@dataclass(frozen=True)
class Chosen:
    """A classifier whose C was chosen on held-out rows."""

    model: Logistic
    c: float
    held_out_accuracies: list[float]  # of the values of C tried, ascending


def grid_of(config: LogisticConfig) -> list[float]:
    """Values of C, ascending, evenly spaced in log10."""
    low, high = np.log10([config.c_min, config.c_max]).tolist()
    return [float(c) for c in 10.0 ** np.linspace(low, high, config.c_count)]


def choose_and_fit(
    x: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    config: LogisticConfig,
    seed: int,
    num_val: int = 0,
    device: str = "cpu",
) -> Chosen:
    """Choose C on held-out rows, then fit all rows with it.

    ``x`` is ``[n, D]`` of any scale, ``labels`` int64 ``[n]`` of at least two classes. Held out are
    the last ``num_val`` rows, or if 0 a share of all, keyed by ``seed``. Of equal held-out
    accuracies the smallest C wins.
    """
    held, rest = _held_out(len(x), config, seed, num_val)
    grid = grid_of(config)
    problem = _Problem(x[rest], labels[rest], device)
    accuracies: list[float] = []
    for c in grid:
        fit = problem.fit(c, config.max_iterations, decrease=_DECREASE_OF_CHOICE)
        accuracies.append(float((fit.predict(x[held]) == labels[held]).mean()))
        # After the last best one: for small C, many are equal.
        num_since_best = int(np.argmax(accuracies[::-1]))
        if config.patience and num_since_best >= config.patience:
            break
    best = int(np.argmax(accuracies))
    del problem  # its rows
    final = _Problem(x, labels, device).fit(
        grid[best], config.max_iterations, decrease=_DECREASE_OF_FINAL
    )
    return Chosen(final, grid[best], accuracies)


def choose_and_fit_labels(
    x: NDArray[Any],
    targets: NDArray[np.int8],
    metric: Callable[[NDArray[Any], NDArray[Any]], float],
    *,
    config: LogisticConfig,
    seed: int,
    num_val: int = 0,
    device: str = "cpu",
) -> ChosenLabels:
    """Fit a classifier of two classes for each of K labels; one C for all, as `choose_and_fit`.

    ``targets`` are ``[n, K]``: 1 present, 0 absent, -1 left out of the fit and of the choice, which
    goes by the mean over labels of ``metric(scores, truth)``. A label that all or none of the rows
    have gets scores of 0.
    """
    held, rest = _held_out(len(x), config, seed, num_val)
    grid = grid_of(config)
    means: list[float] = []
    problems = _Problem(x[rest], targets[rest, 0].astype(np.int64), device).for_labels(
        targets[rest]
    )
    for c in grid:
        models = [
            None if p is None else p.fit(c, config.max_iterations, decrease=_DECREASE_OF_CHOICE)
            for p in problems
        ]
        scores, truths = ChosenLabels(models, c, []).scores(x[held]), targets[held]
        mean, num = mean_of_present(per_label(metric, scores, truths, truths >= 0))
        means.append(mean if num else 0.0)
        if config.patience and int(np.argmax(means[::-1])) >= config.patience:
            break
    best = int(np.argmax(means))
    del problems  # their rows
    final = _Problem(x, targets[:, 0].astype(np.int64), device).for_labels(targets)
    models = [
        None if p is None else p.fit(grid[best], config.max_iterations, decrease=_DECREASE_OF_FINAL)
        for p in final
    ]
    return ChosenLabels(models, grid[best], means)


def _held_out(
    num: int, config: LogisticConfig, seed: int, num_val: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows on which C is chosen, and the others."""
    if num_val:
        return np.arange(num - num_val, num), np.arange(num - num_val)
    order = KeyedPermutation(num, seed, "evaluation/logistic")[np.arange(num)]
    count = min(max(1, int(config.held_out * num)), num - 1)
    return np.sort(order[:count]), np.sort(order[count:])


def fit_logistic(
    x: NDArray[Any],
    labels: NDArray[np.int64],
    cs: Sequence[float],
    *,
    bias: bool = True,
    max_iterations: int = 1000,
    device: str = "cpu",
) -> list[Logistic]:
    """Fit one classifier per C, preferably ascending: each starts from the one before.

    ``x`` is ``[n, D]`` of any scale, copied in float64 to ``device``; ``labels`` are int64 ``[n]``,
    and classes without a row are not fitted (their bias would diverge). Without ``bias`` it is 0.
    ``max_iterations`` are of L-BFGS, for each C; a fit that reaches them is logged and used.
    """
    problem = _Problem(x, labels, device, has_bias=bias)
    return [problem.fit(c, max_iterations) for c in cs]


def _principal_axes(centered_nD: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums of squares ``[R]`` along the principal axes ``[D, R]``, and the axes.

    Axes without spread are left out: the optimum along them is 0.
    """
    if centered_nD.shape[0] < centered_nD.shape[1]:
        _, sigma, axes_RD = torch.linalg.svd(centered_nD, full_matrices=False)
        values, axes_DR = sigma.square(), axes_RD.T
    else:
        values, axes_DR = torch.linalg.eigh(centered_nD.T @ centered_nD)
    seen = values > values.max().clamp_min(1e-300) * 1e-14
    return values[seen], axes_DR[:, seen]


class _Problem:
    """One set of rows, rotated once; keeps the last solution as the next start."""

    def __init__(
        self, x: NDArray[Any], labels: NDArray[np.int64], device: str, *, has_bias: bool = True
    ) -> None:
        self.classes, targets = np.unique(labels, return_inverse=True)
        self.targets = torch.from_numpy(targets.astype(np.int64)).to(device)
        x_nD = torch.from_numpy(np.array(x, np.float64)).to(device)
        self._has_bias = has_bias
        self._mean_D = x_nD.mean(dim=0) if has_bias else torch.zeros_like(x_nD[0])
        x_nD -= self._mean_D
        self._values_R, self._axes_DR = _principal_axes(x_nD)
        self.rows_nR = x_nD @ self._axes_DR
        self.last = torch.zeros(
            len(self.classes), 1 + len(self._values_R), dtype=torch.float64, device=device
        )

    def for_labels(self, targets: NDArray[np.int8]) -> "list[_Problem | None]":
        """Return a problem of two classes per label ``[n, K]`` on the same rotated rows."""
        problems: list[_Problem | None] = []
        for truth in targets.T:
            counts = torch.from_numpy(truth >= 0).to(self.rows_nR.device)
            one = copy.copy(self)
            one.classes = np.unique(truth[truth >= 0]).astype(np.int64)
            one.targets = torch.from_numpy(truth[truth >= 0].astype(np.int64)).to(counts.device)
            one.rows_nR = self.rows_nR if counts.all() else self.rows_nR[counts]
            one.last = self.last.new_zeros(len(one.classes), self.last.shape[1])
            problems.append(one if len(one.classes) == 2 else None)
        return problems

    def fit(self, c: float, max_iterations: int, *, decrease: float = 0.0) -> Logistic:
        from scipy.optimize import minimize

        scale = self._scale(c)
        start = (self.last / scale).cpu().numpy().ravel()
        _, at_zero = self._objective(np.zeros_like(start), c, scale)
        solution = minimize(
            self._objective,
            start,
            args=(c, scale),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxcor": _MEMORY,
                "maxiter": max_iterations,
                "maxfun": 2 * max_iterations,
                "ftol": decrease,
                "gtol": max(_TOLERANCE * float(np.abs(at_zero).max()), 1e-300),
            },
        )
        if solution.nit >= max_iterations:
            _log.debug("logistic regression with C = %g stopped after %d steps", c, solution.nit)
        self.last = torch.from_numpy(solution.x).to(scale.device).reshape(self.last.shape) * scale
        return self._as_model(int(solution.nit))

    def _scale(self, c: float) -> Tensor:
        """Factor of each coordinate, ``[1 + R]``: 1 / sqrt of the Hessian's diagonal at 0."""
        num_classes = len(self.classes)
        bias = torch.full_like(self._values_R[:1], c * len(self.rows_nR) / num_classes)
        rest = c * self._values_R / num_classes + 1.0
        return torch.cat([bias if len(bias) else bias.new_ones(1), rest]).rsqrt()

    def _objective(self, flat: Floats, c: float, scale: Tensor) -> tuple[float, Floats]:
        point = torch.from_numpy(flat).to(scale.device).reshape(self.last.shape) * scale
        bias_K, weights_KR = point[:, 0], point[:, 1:]
        scores_nK = torch.addmm(bias_K, self.rows_nR, weights_KR.T)
        log_sums_n = torch.logsumexp(scores_nK, dim=1)
        right_n = scores_nK.gather(1, self.targets[:, None])[:, 0]
        value = c * (log_sums_n - right_n).sum() + weights_KR.square().sum() / 2
        # Gradient of the scores: probabilities minus one-hot targets.
        errors_nK = (scores_nK - log_sums_n[:, None]).exp_()
        errors_nK.scatter_add_(1, self.targets[:, None], torch.full_like(right_n, -1.0)[:, None])
        slope = torch.cat(
            [c * errors_nK.sum(dim=0)[:, None], c * (errors_nK.T @ self.rows_nR) + weights_KR],
            dim=1,
        )
        if not self._has_bias:
            slope[:, 0] = 0.0  # stays where it starts
        return float(value), (slope * scale).cpu().numpy().ravel()

    def _as_model(self, iterations: int) -> Logistic:
        weights_KD = self.last[:, 1:] @ self._axes_DR.T
        bias_K = self.last[:, 0] - weights_KD @ self._mean_D
        bias_K -= bias_K.mean()
        return Logistic(weights_KD.cpu().numpy(), bias_K.cpu().numpy(), self.classes, iterations)
