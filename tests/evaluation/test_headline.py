import pytest

from dinoforge.evaluation.headline import headline_k, headline_record
from dinoforge.records import Record


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


def test_the_headline_record_is_the_best_kind_of_the_trained_network_at_that_k():
    def knn(model, features, k, value, benchmark="knn/x"):
        settings = {"features": features, "k": k}
        return Record(
            benchmark=benchmark, model=model, metric="accuracy", value=value, settings=settings
        )

    best = knn("trained", "both", 20, 0.6)
    others = [
        knn("trained", "cls", 20, 0.5),
        knn("trained", "cls", 10, 0.9),
        knn("pixels", "pixels", 20, 0.8),
        knn("trained", "cls", None, 0.7, benchmark="logistic/x"),
    ]
    assert headline_record([*others, best]) == best
    assert headline_record(others[2:]) is None
