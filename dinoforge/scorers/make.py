"""Make a scorer from the spec in a recipe."""

from collections.abc import Mapping
from functools import lru_cache

from dinoforge.config.keys import suggest
from dinoforge.errors import UsageError
from dinoforge.scorers.measures import MEASURES, PixelMeasures
from dinoforge.scorers.scorer import Scorer

__all__ = ["PIXELS", "SCORERS", "make_scorer", "scorer_of"]

# The scorer of all `MEASURES`, each of which is a spec.
PIXELS = "pixels"

# Spec -> description.
SCORERS: Mapping[str, str] = {
    **MEASURES,
    "nsfw": "probability of a pornographic image, by Open-NSFW of Yahoo (extra `nsfw`)",
    "faces": "number of faces, and the share of the image in boxes around them (extra `faces`)",
    "phash:FILE": "bits, 0 to 64, in which the perceptual hash differs from the nearest of a list",
    "onnx:FILE": "the outputs of a network (extra `onnx`); #224,crop: its images",
    "python:MODULE:FUNCTION": "your own function from images to numbers",
}


def scorer_of(spec: str) -> tuple[str, str]:
    """Return the spec to give to `make_scorer`, and which of its columns is meant; "": all."""
    return (PIXELS, spec) if spec in MEASURES else (spec, "")


@lru_cache(maxsize=16)  # loads weights once per process, not once per partition
def make_scorer(spec: str) -> Scorer:
    """Make the scorer of a spec: one of `SCORERS`, or `PIXELS`.

    Raises
    ------
    UsageError
        If the spec is unknown (the nearest is named), or a file or package is missing.
    """
    kind, _, rest = spec.partition(":")
    if spec == PIXELS:
        return PixelMeasures()
    if kind == "python" and rest:
        from dinoforge.scorers.functions import CallableScorer

        return CallableScorer(rest)
    if (kind == "onnx" and rest) or spec.endswith(".onnx"):
        from dinoforge.scorers.networks import OnnxScorer

        return OnnxScorer(spec.removeprefix("onnx:"))
    if kind == "phash" and rest:
        from dinoforge.scorers.hashes import HashScorer

        return HashScorer(rest)
    if spec == "nsfw":
        from dinoforge.scorers.networks import NsfwScorer

        return NsfwScorer()
    if spec == "faces":
        from dinoforge.scorers.faces import FacesScorer

        return FacesScorer()
    raise UsageError(
        what=f"unknown scorer `{spec}`{suggest(spec, SCORERS)}",
        where="`scores`",
        do=f"give {', '.join(SCORERS)}",
    )
