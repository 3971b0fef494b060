import pytest

from evaluation.headline import headline_k


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [
        ([10, 20, 100], 20),
        ([10, 100], 10),
        ([25, 15], 15),
        ([None, 200, None], 200),
        ([None], None),
        ([], None),
    ],
)
def test_headlines_speak_of_the_k_nearest_to_twenty(measured, chosen):
    assert headline_k(measured) == chosen
