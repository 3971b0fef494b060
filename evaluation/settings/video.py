"""Settings of the protocols on videos and objects; see `evaluation.settings`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from dinoforge.config.ranges import NonEmpty, NonNegativeInt, PositiveFloat, PositiveInt, Range

__all__ = [
    "AttentionConfig",
    "ClipsConfig",
    "DiscoveryConfig",
    "FeatureKind",
    "LostConfig",
    "PropagationConfig",
    "TokenCutConfig",
]

FeatureKind = Literal["keys", "keys_centered", "tokens"]


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """Labels of a video's first frame propagated; defaults are those of DINO's script."""

    # shorter side of frames in the network, in pixels; rounded down to whole patches
    side: PositiveInt = 480
    last_frames: NonNegativeInt = 7  # latest frames used as sources, besides the first one
    window: NonNegativeInt = 12  # sources lie at most this many patches away; 0: anywhere
    top_k: PositiveInt = 5  # most similar source patches, of all frames together
    temperature: PositiveFloat = 0.1  # weights: exp(cosine / temperature), normalized


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Attention of the class token as masks (DINO's visualization)."""

    side: PositiveInt = 480  # shorter side of images in the network, in pixels
    mass: Annotated[float, Range(0, 1, exclude=(0,))] = 0.6  # share of the attention that is kept
    every: PositiveInt = 5  # of videos, one frame of so many; features are taken of all frames


@dataclass(frozen=True, kw_only=True)
class LostConfig:
    """Settings of LOST, as published."""

    k_patches: PositiveInt = 100  # patches of lowest degree among which the seed is expanded


@dataclass(frozen=True, kw_only=True)
class TokenCutConfig:
    """Settings of TokenCut, as published, and how its eigenvectors are computed."""

    tau: Annotated[float, Range(-1, 1)] = 0.2  # patches with a larger cosine are linked
    epsilon: PositiveFloat = 1e-5  # weight of all other pairs
    dense_up_to: PositiveInt = 2500  # patches; LOBPCG beyond, dense again if it does not converge


@dataclass(frozen=True, kw_only=True)
class DiscoveryConfig:
    """One box per image without training: LOST and TokenCut."""

    # LOST grows a region from a seed (Siméoni et al. 2021), TokenCut cuts the graph of the patches
    # (Wang et al. 2022)
    methods: Annotated[list[Literal["lost", "tokencut"]], NonEmpty] = field(
        default_factory=lambda: ["lost", "tokencut"]
    )
    # keys of the last block, as published; the same less their mean over the image; the tokens
    features: Annotated[list[FeatureKind], NonEmpty] = field(default_factory=lambda: ["keys"])
    # shorter side of images in the network, in pixels; 0, as published: the image as it is, padded
    # to whole patches
    side: NonNegativeInt = 0
    every: PositiveInt = 5  # of videos, one frame of so many; features are taken of all frames
    lost: LostConfig = field(default_factory=LostConfig)
    tokencut: TokenCutConfig = field(default_factory=TokenCutConfig)


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """Videos classified by features of 8 frames (DINOv2, section 7.2); see also `logistic`."""

    # mean of the frames, or their features side by side, where the order matters
    join: Annotated[list[Literal["mean", "concatenate"]], NonEmpty] = field(
        default_factory=lambda: ["mean"]
    )
