"""Labeled images of a step: which ones, their classes, and what is refused."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dinoforge.config.load import recipe_folder
from dinoforge.errors import UsageError
from dinoforge.training.data.dataset import open_training_data
from dinoforge.training.data.support import Support, SupportOrder
from dinoforge.training.distributed.ranks import RankInfo

CPU = torch.device("cpu")


@pytest.fixture
def labeled(own_pictures, tmp_path):
    """Two classes: a with four pictures, b with three."""
    folder = tmp_path / "labeled"
    for at, file in enumerate(sorted(own_pictures.iterdir())[:7]):
        target = folder / "ab"[at % 2] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


@pytest.fixture
def recipe(tiny, labeled):
    def make(*changes):
        own = (
            "method=paws",
            "support.classes=2",
            "support.images=3",
            f"support.paths=['{labeled}']",
        )
        return tiny(*own, *changes)

    return make


def opened(config, rank=0, ranks=1):
    info = RankInfo(rank=rank, world_size=ranks, local_world_size=ranks)
    return open_training_data(config, config.out, info, CPU)


def test_rows_of_a_column_are_of_one_class_and_every_class_comes_once_a_pass():
    by_class = [np.arange(6) + 6 * c for c in range(8)]
    order = SupportOrder(by_class=by_class, classes_per_batch=4, images_per_class=3, groups=2)
    seen = []
    for step in range(order.batches_of_pass):
        images, columns = order.locate(step)
        assert len(set(images.tolist())) == len(images) == 24
        for column in range(4):
            (of_column,) = set((images[columns == column] // 6).tolist())
            seen.append(of_column)
    assert sorted(seen) == list(range(8))


def test_groups_of_unique_classes_have_columns_of_their_own():
    by_class = [np.arange(4) + 4 * c for c in range(6)]
    order = SupportOrder(
        by_class=by_class, classes_per_batch=3, images_per_class=2, groups=2, unique=True
    )
    images, columns = order.locate(0)
    assert sorted(set(columns.tolist())) == list(range(6))
    assert len({(c, i // 4) for i, c in zip(images.tolist(), columns.tolist(), strict=True)}) == 6


@pytest.mark.parametrize("unique", [True, False])
def test_a_rank_draws_its_groups_alone_and_they_are_those_of_all(unique):
    order = SupportOrder(
        by_class=[np.arange(12) + 12 * c for c in range(8)],
        **{"classes_per_batch": 2, "images_per_class": 3, "groups": 4, "unique": unique},
        passes=3,
    )
    for step in range(2 * order.passes * order.batches_of_pass):
        whole = Support(order, 1, 0, 1).locate(step)
        for ranks in (2, 8):
            parts = [Support(replace(order), 1, rank, ranks) for rank in range(ranks)]
            drawn = [part.locate(step) for part in parts]
            for result, wanted in zip(zip(*drawn, strict=True), whole, strict=True):
                assert np.concatenate(result).tolist() == wanted.tolist()
            assert len(parts[-1].order._last) == max(1, 4 // ranks)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        (("batch_size=4",), 2),  # 10 images: the last, smaller batch is dropped
        (("batch_size=4", "support.classes=1"), 1),  # each class has a batch of its own
        (
            ("method=suncet", "paws.contrastive=0", "support.images=1", "support.views=2"),
            3,
        ),  # the smaller class
        (("method=supervised",), 1),
    ],
)
def test_the_passes_of_a_round_fill_an_epoch(recipe, changes, passes):
    assert opened(recipe(*changes))._cutter.support.order.passes == passes


def test_images_of_a_class_are_in_the_order_of_their_list(recipe, tmp_path):
    (tmp_path / "subset.txt").write_text("004\n001\n000\n002\n005\n")
    changes = (f"support.subset={tmp_path / 'subset.txt'}", "support.images=1")
    data = opened(recipe(*changes))
    listed = data._cutter.support.order.by_class[0].tolist()
    assert [data.images.table["key"][at].as_py()[:5] for at in listed] == [
        "a/004",
        "a/000",
        "a/002",
    ]


def test_ranks_share_the_support_of_a_step(recipe):
    config = recipe("support.views=2", "support.images=2", "batch_size=4")
    whole = opened(config).batch(3)
    halves = [opened(config, rank, 2).batch(3) for rank in range(2)]
    assert whole.support.shape == (2, 4, 3, 28, 28)
    assert torch.equal(torch.cat([half.support for half in halves], dim=1), whole.support)
    assert torch.equal(torch.cat([half.classes for half in halves]), whole.classes)
    assert not torch.equal(whole.support[0], whole.support[1])  # two views of the same images


def test_a_labeled_image_that_does_not_decode_is_replaced_by_one_of_its_class(recipe, labeled):
    broken = min((labeled / "b").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    data = opened(recipe())
    assert data.batch(0).support.shape[1] == 6
    (reason,) = data.undecodable.values()
    assert reason


@pytest.mark.parametrize("lines", [["000.jpg", "a/002.jpg", "001"], ["0", "1", "4"]])
def test_a_file_lists_the_labeled_images(recipe, tmp_path, lines):
    (tmp_path / "subset.txt").write_text("\n".join(lines) + "\n")
    changes = (f"support.subset={tmp_path / 'subset.txt'}", "support.images=1")
    data = opened(recipe(*changes))
    assert data.batch(0).classes.tolist() == [0, 1]
    account = data.account()
    assert (account.images, account.labeled) == (10, 3)  # 4 more have a label, and are not listed


def test_a_list_without_images_of_a_class_is_refused_until_the_class_is_left_out(
    recipe, labeled, tmp_path
):
    (tmp_path / "subset.txt").write_text("000.jpg\n002.jpg\n004.jpg\n")
    changes = (f"support.subset={tmp_path / 'subset.txt'}", "support.classes=1")
    with pytest.raises(UsageError, match=r"lists no image of 1 of 2 classes: b - .* - add some"):
        opened(recipe(*changes))
    rows = "".join(f"{file},a\n" for file in sorted((labeled / "a").iterdir()))
    (tmp_path / "a.csv").write_text(f"path,label\n{rows}")
    data = opened(recipe(*changes, f"support.paths=['{tmp_path / 'a.csv'}']"))
    assert data.batch(0).classes.tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_lists_of_cifar10_are_balanced_and_nested(seed):
    folder = recipe_folder("training") / "labels"
    few, many = (
        (folder / f"cifar10-{per_class}-{seed}.txt").read_text().split() for per_class in (4, 25)
    )
    assert set(few) < set(many)
    for keys, per_class in ((few, 4), (many, 25)):
        counts = Counter(key.split("_")[1] for key in dict.fromkeys(keys))
        assert set(counts.values()) == {per_class}
        assert len(counts) == 10


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        (("support.images=4",), r"class b has 3 labeled images, a step needs 4 - .*at most 3"),
        (("support.classes=3",), "a step needs 3 classes, the labeled images have 2"),
        (
            ("support.groups=3", "support.images=2"),
            "class b has 3 labeled images, a step needs 6 - .* x `support.groups` - give at most 3",
        ),
        (
            ("support.groups=64", "support.unique_classes=true"),
            "a step needs 128 classes, .* have 2 - .* x `support.groups` - give at most 2",
        ),
        (("support.subset=missing.txt",), "missing.txt"),
        (("support.subset=labels/cifar10-4-0.txt",), "40 of 40 lines name no image"),
    ],
)
def test_what_a_step_cannot_have_is_refused_in_one_line(recipe, changes, reported):
    with pytest.raises(UsageError, match=reported) as error:
        opened(recipe(*changes))
    assert len(str(error.value).splitlines()) == 1


def test_classes_that_do_not_divide_are_refused(recipe, labeled):
    shutil.copytree(labeled / "a", labeled / "c")
    with pytest.raises(UsageError, match=r"3 classes are not a multiple of .* - give 1 or 3"):
        opened(recipe())


def test_images_without_labels_are_refused(recipe, pictures):
    with pytest.raises(UsageError, match="no image has a label"):
        opened(recipe(f"support.paths=['{pictures}']"))


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ("support.paths=[]", "`support.paths` is empty with method=paws"),
        ("model.drop_path=0.1", "`model.drop_path` is 0.1 with method=paws"),
        ("parallel.accumulate=2", "`parallel.accumulate` 2 with `paws.normalized`"),
    ],
)
def test_a_recipe_that_paws_cannot_follow_is_refused(recipe, change, reported):
    with pytest.raises(UsageError, match=reported):
        recipe(change)


def test_ranks_that_do_not_share_the_support_are_refused(recipe):
    with pytest.raises(UsageError, match="6 images, which cannot be divided evenly among 4 ranks"):
        recipe().check_ranks(4)
