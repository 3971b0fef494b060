"""Sources for shards: tars with side data, and class folders; not to be changed."""

import pytest
from shard_sets import picture, samples_of, write_tar


@pytest.fixture(scope="session")
def tars(tmp_path_factory):
    """Three tars of 20 samples; and these samples."""
    folder = tmp_path_factory.mktemp("tars")
    for at in range(3):
        write_tar(folder / f"{at:05d}.tar", samples_of(20 * at, 20 * at + 20))
    return folder, samples_of(0, 60)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Class folders with captions beside some pictures."""
    root = tmp_path_factory.mktemp("folders")
    for number in range(9):
        folder = root / ("cat", "dog", "eel")[number % 3]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.v1.JPG").write_bytes(picture(100 + number))
        if number < 4:
            (folder / f"{number}.v1.txt").write_text(f"a caption {number}")
    (root / "notes.md").write_text("no picture")
    return root
