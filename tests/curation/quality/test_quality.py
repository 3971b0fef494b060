"""The page about quality: issues are counted as in a list made by hand, pictures are shown."""

import re
import shutil
from urllib.parse import unquote

import numpy as np
import pool as pools
import pytest
from PIL import Image, ImageFilter
from skimage import data

from dinoforge.cli.main import main
from dinoforge.curated import quality_page
from dinoforge.curation.policies.filter_config import FilterConfig
from dinoforge.curation.quality.issues import filter_limits
from dinoforge.evaluation.report.build import make_report

# Issue -> the picture that alone has it.
PICTURES = {
    "dark": lambda photo: photo.point(lambda value: value // 5),
    "light": lambda photo: photo.point(lambda value: 255 - (255 - value) // 5),
    "blurry": lambda photo: photo.filter(ImageFilter.GaussianBlur(4)),
    "low_information": lambda photo: photo.quantize(4, dither=Image.Dither.NONE).convert("RGB"),
    "grayscale": lambda photo: photo.convert("L"),
    "odd_aspect_ratio": lambda photo: photo.crop((0, 0, 300, 80)),
    "odd_size": lambda photo: photo.resize((18, 20)),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two sources: good photographs, and one picture per issue with a damaged file."""
    folder = tmp_path_factory.mktemp("quality")
    for name in ("good", "bad"):
        (folder / name).mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(data, name)()[:300, :300]).save(folder / f"good/{name}.png")
    photo = Image.fromarray(data.astronaut()).crop((100, 0, 400, 300))
    for name, change in PICTURES.items():
        change(photo).save(folder / f"bad/{name}.png")
    (folder / "bad/damaged.png").write_bytes(b"no")
    names = ("good", "bad")
    sources = [{"role": "pool", "name": n, "paths": [str(folder / n)]} for n in names]
    words = ("retrieve.mode=none", "plant.count=0", "partition_images=5", "filter.min_side=16")
    scores = "scores=[{name: sharp, scorer: blur}]"
    where = "filter.where=sharp < 1.5 and 0.7 > dark_ and bytes >= 100"
    words = (*words, scores.replace("]", ", {name: dark_, scorer: dark}]"), where)
    pools.curated(pools.recipe(sources, folder / "run", *words))
    return folder / "run"


def rows_of(run):
    """The table of issues: name -> images, share, dropped by the filter, bad, good."""
    text = quality_page(run).read_text()
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>.*?</tr>', text)
    tables = re.findall(r'<tr><th scope="row">.*?</tr>', text)
    cells = [re.findall(r'<td class="num">(.*?)</td>', row) for row in tables]
    names = [re.sub("<.*?>", "", name).replace(" ", "_") for name in rows]
    return dict(zip(names, cells, strict=True))


def test_each_issue_is_counted_where_it_is(run):
    rows = rows_of(run)
    for name in PICTURES:
        images, _, dropped, bad, good = rows[name]
        assert (images, good, bad) == ("1", "0", "1"), name
        assert dropped == ("1" if name in ("dark", "blurry") else "0"), name
    assert rows["exact_duplicate"][0] == "0"


def test_the_page_shows_the_worst_pictures_and_the_limits_and_asks_no_other_host(run):
    text = quality_page(run).read_text()
    assert "11 images of 2 sources; 1 more does not decode" in text
    for name in PICTURES:
        section = text.partition(f'<section id="{name}">')[2].partition("</section>")[0]
        assert f"bad/{name}" in section or f">{name}<br>" in section
        assert section.count("data:image/jpeg") == 1
    for limit in ("keep &lt; 1.5", "keep &lt; 0.7", "keep &gt;= 0.0977", "keep &gt;= 16"):
        assert limit in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)


def test_the_page_is_the_same_when_it_is_written_again(run):
    before = quality_page(run).read_bytes()
    quality_page(run).unlink()
    recipe = pools.load_config(pools.CurationConfig, run / "config.yaml", [])
    pools.curated(recipe)
    assert quality_page(run).read_bytes() == before


def test_a_takedown_removes_the_page_that_may_show_the_image(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    row = next(row for row in pools.ledger(copy) if row["key"] == "grayscale")
    assert quality_page(copy).exists()
    assert main(["takedown", str(copy), str(row["image_id"])]) == 0
    assert not quality_page(copy).exists()


def test_the_report_links_to_the_page(run, tmp_path):
    page = make_report(tmp_path / "a report", curation=run).html
    (link,) = re.findall(r'href="([^"#]*)"', page.read_text())
    assert (page.parent / unquote(link)).resolve() == quality_page(run)


@pytest.mark.parametrize(
    ("where", "name", "limits"),
    [
        ("blur < 1.3 and nsfw < 0.2", "nsfw", [("< 0.2", 0.2)]),
        ("0.5 <= text", "text", [(">= 0.5", 0.5)]),
        ("not (1 < aspect < 3)", "aspect", [("<= 10", 10.0), ("> 1", 1.0), ("< 3", 3.0)]),
        ("key == 'a' or width / height > 2", "key", None),
        ("", "std", [(">= 2", 2.0)]),
    ],
)
def test_limits_of_conditions_are_read(where, name, limits):
    assert filter_limits(FilterConfig(where=where)).get(name) == limits


def test_values_of_no_image_give_a_page(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"no")
    Image.fromarray(np.full((20, 20, 3), 7, np.uint8)).save(tmp_path / "a/y.png")
    sources = [{"role": "pool", "paths": [str(tmp_path / "a")]}]
    words = ("retrieve.mode=none", "plant.count=0", "scores=[{name: blur, scorer: blur}]")
    pools.curated(pools.recipe(sources, tmp_path / "run", *words, "max_bad_rate=1"))
    assert rows_of(tmp_path / "run")["blurry"][0] == "0"
