"""The policy of admission: which rule is named first, and for which roles."""

import numpy as np
import pytest

from dinoforge.curated import REASONS, ROLES
from dinoforge.curation.config import FilterConfig
from dinoforge.curation.stages.filter import first_reason
from dinoforge.curation.tables import read_screened


def reason_of(width, height, std, role="pool", **policy):
    one = (np.array([width]), np.array([height]), np.array([std], np.float32))
    (code,) = first_reason(*one, np.array([ROLES.index(role)], np.int8), FilterConfig(**policy))
    return "admitted" if code < 0 else REASONS[code]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((64, 64, 30), "admitted"),
        ((15, 64, 30), "too_small"),
        ((15, 900, 0), "too_small"),  # the first of three broken rules
        ((16, 161, 0), "bad_aspect"),
        ((160, 16, 30), "admitted"),  # exactly at the limit
        ((64, 64, 1.99), "flat"),
        ((0, 0, np.nan), "undecodable"),
    ],
)
def test_the_first_broken_rule_is_the_reason(image, expected):
    assert reason_of(*image) == reason_of(*image, role="seed") == expected


@pytest.mark.parametrize("role", ["as_is", "reference"])
def test_images_that_are_not_curated_only_need_to_decode(role):
    assert reason_of(1, 900, 0, role) == "admitted"
    assert reason_of(0, 0, np.nan, role) == "undecodable"


def test_an_aspect_of_0_admits_any_shape():
    assert reason_of(20, 2000, 30, max_aspect=0) == "admitted"


def test_the_facts_of_the_stage_count_every_image(inputs):
    (facts,) = inputs.facts("filter")
    reason = read_screened(inputs).reason
    assert sum(facts.values()) == len(reason)
    assert facts["admitted"] == np.count_nonzero(reason < 0)
    assert facts.keys() == {"admitted", "undecodable", "too_small", "bad_aspect", "flat"}
