"""The dirty collection: every file and tar as in its manifest, counted, and nothing else lost."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pool as pools
import pytest
from PIL import Image

from dinoforge.config import load_config
from dinoforge.curation.config import CurationConfig
from dinoforge.curation.pipeline import STAGES
from dinoforge.errors import UsageError
from dinoforge.images.decode import decode
from dinoforge.images.policy import DecodePolicy
from dinoforge.stages.executor import make_executor
from dinoforge.stages.pipeline import run_stages
from dinoforge.stages.stage import Inputs, stage_folder
from dinoforge.tables import read_table

# What the default policy makes of the files that the manifest leaves to policy.
POLICY = dict.fromkeys(
    [
        *("bad_bitflips.jpg", "ok_animated.gif", "ok_animated.webp", "ok_extreme_aspect.png"),
        *("ok_flat_gray.png", "ok_float.tif", "ok_missing_eoi.jpg", "ok_multipage.tif"),
        *("ok_tiny_1x1.png", *(f"ok_exif_{value}.jpg" for value in range(2, 9))),
    ],
    "accept",
) | {"bad_bomb_real.png": "reject"}

UNDECODABLE = {
    "bad_5channel.tif": "unsupported",
    "bad_bomb_header.png": "too_many_pixels",
    "bad_bomb_real.png": "too_many_pixels",
    "bad_crc.png": "damaged",
    "bad_jpeg_magic_only.jpg": "truncated",
    "bad_random.jpg": "not_an_image",
    "bad_svg.png": "not_an_image",
    "bad_text.jpg": "not_an_image",
    "bad_truncated.png": "truncated",
    "bad_truncated_half.jpg": "truncated",
    "bad_truncated_head.jpg": "truncated",
    "bad_zero_byte.jpg": "empty",
}

# Tar -> images that must be listed, and what must be reported about it.
TARS = {
    "shard_bad_header.tar": (3, {"bad_header": 1}),
    "shard_bad_image_inside.tar": (6, {}),
    "shard_dirs_and_dots.tar": (2, {}),
    "shard_duplicate_key.tar": (4, {"duplicate_key": 2}),
    "shard_empty.tar": (0, {"no_members": 1}),
    "shard_good.tar": (6, {}),
    "shard_gzip_named.tar": (6, {}),
    "shard_latin1_name.tar": (2, {}),
    "shard_long_names_pax.tar": (2, {}),
    "shard_missing_image.tar": (5, {"no_image": 1}),
    "shard_missing_label.tar": (6, {"no_label": 1}),
    "shard_path_traversal.tar": (3, {"unsafe_name": 2, "no_label": 2}),
    "shard_symlink.tar": (1, {"not_a_file": 1}),
    "shard_text.tar": (0, {"not_a_tar": 1}),
    "shard_truncated.tar": (3, {"truncated": 1}),
    "shard_truncated_on_boundary.tar": (3, {"no_end_marker": 1}),
    "shard_unsorted.tar": (6, {"split_sample": 2}),
    "shard_zero_byte.tar": (0, {"empty_file": 1}),
}


@pytest.fixture(scope="module")
def dirty(shared):
    return shared / "data/dirty"


@pytest.fixture(scope="module")
def manifest(dirty):
    return json.loads((dirty / "manifest.json").read_text())["files"]


def screened(run, paths, *more):
    """Ingest, inspect and filter only; rows of index and facts together, and the problems."""
    sources = json.dumps([{"role": "pool", "paths": [str(path) for path in paths]}])
    config = load_config(CurationConfig, None, [f"sources={sources}", f"out={run}", *more])
    run_stages("curation", STAGES[:6], run, config, make_executor("in-process"))
    folders = {s.name: stage_folder(run, "curation", s.number, s.name) for s in STAGES}
    inputs = Inputs(run, config, folders)
    index, facts = (
        read_table(inputs.file(*place)).to_pylist()
        for place in (("ingest", "index.parquet"), ("inspect", "facts.parquet"))
    )
    assert len(index) == len(facts)
    problems = read_table(inputs.file("ingest", "problems.parquet")).to_pylist()
    return [i | f for i, f in zip(index, facts, strict=True)], problems


def undecodable(rows):
    """Key, or the name of the file -> why it does not decode."""
    return {Path(r["shard"]).name: r["reason"] for r in rows if r["reason"] is not None}


@pytest.fixture(scope="module")
def whole(dirty, tmp_path_factory):
    """The whole folder through the whole curation."""
    out = tmp_path_factory.mktemp("dirty") / "run"
    sources = [{"role": "pool", "paths": [str(dirty)]}]
    config = load_config(CurationConfig, None, [f"sources={json.dumps(sources)}", f"out={out}"])
    return pools.curated(config), pools.ledger(out)


def test_the_tables_of_this_test_cover_the_manifest(manifest):
    assert TARS.keys() == {name for name in manifest if name.startswith("shard_")}
    images = {name: entry["decision"] for name, entry in manifest.items() if name not in TARS}
    assert POLICY.keys() == {name for name, decision in images.items() if decision == "policy"}
    refused = {name for name, decision in (images | POLICY).items() if decision == "reject"}
    assert UNDECODABLE.keys() == refused
    for name, (num, _) in TARS.items():
        entry = manifest[name]
        lost = entry.get("samples", 0) - num
        assert lost == (name == "shard_missing_image.tar"), name


def test_the_whole_folder_is_reported_file_by_file(whole, manifest):
    summary, ledger = whole
    by_file = Counter(Path(row["shard"]).name.partition("-")[0] for row in ledger)
    expected = {name: 1 for name in manifest if name not in TARS}
    expected |= {name: num for name, (num, _) in TARS.items() if num}
    expected["shard_gzip_named"] = expected.pop("shard_gzip_named.tar")
    assert by_file == expected
    assert [row["image_id"] for row in ledger] == list(range(summary.images))

    problems = Counter({"other_file": 2})  # the manifest and the script beside it
    for _, reported in TARS.values():
        problems.update(reported)
    assert summary.problems == problems

    refused = [row for row in ledger if row["reason"] == "undecodable"]
    files = {Path(row["shard"]).name: row["detail"].partition(":")[0] for row in refused}
    assert files == UNDECODABLE | {"shard_bad_image_inside.tar": "truncated"}
    assert summary.undecodable == Counter(files.values())
    filtered = {r["key"]: r["reason"] for r in ledger if r["reason"] in ("too_small", "flat")}
    assert filtered == {
        "ok_tiny_1x1": "too_small",
        "ok_extreme_aspect": "too_small",
        "ok_flat_gray": "flat",
    }


def test_every_count_of_the_summary_adds_up_to_the_rows_of_the_ledger(whole):
    summary, ledger = whole
    assert Counter(row["reason"] for row in ledger) == summary.roles["pool"]
    assert sum(summary.roles["pool"].values()) == summary.images == len(ledger)
    assert sum(row["decision"] == "kept" for row in ledger) == summary.kept == summary.exported
    funnel = {row.label: row.count for row in summary.funnel()}
    dropped = sum(count for label, count in funnel.items() if label.startswith("dropped"))
    assert funnel["images in"] - dropped == funnel["kept"]


@pytest.mark.parametrize("name", [*UNDECODABLE, *POLICY, "accepted"])
def test_each_file_alone_is_decided_as_in_the_folder(dirty, manifest, tmp_path, name):
    if name == "accepted":  # all at once: there is one answer for them
        accepted = [n for n, e in manifest.items() if e["decision"] == "accept" and n not in TARS]
        rows, problems = screened(tmp_path, [dirty / name for name in accepted])
        assert (len(rows), undecodable(rows), problems) == (len(accepted), {}, [])
        return
    refused = {name: UNDECODABLE[name]} if name in UNDECODABLE else {}
    rows, problems = screened(tmp_path, [dirty / name])
    assert (len(rows), undecodable(rows), problems) == (1, refused, [])


@pytest.mark.parametrize("name", TARS)
def test_each_tar_alone_gives_its_samples_and_shows_its_problems(dirty, tmp_path, name):
    num, reported = TARS[name]
    if not num:
        words = ", ".join(f"1 {reason}" for reason in reported)
        with pytest.raises(UsageError, match="no images" + (rf" \({words}\)" if words else "")):
            screened(tmp_path, [dirty / name])
        return
    rows, problems = screened(tmp_path, [dirty / name])
    assert len(rows) == num
    assert Counter(result["reason"] for result in problems) == reported
    assert {result["shard"] for result in problems} <= {str(dirty / name)}
    bad = [row["key"] for row in rows if row["reason"] is not None]
    assert bad == (["0002"] if name == "shard_bad_image_inside.tar" else [])
    if name not in ("shard_latin1_name.tar", "shard_path_traversal.tar", "shard_symlink.tar"):
        # Labels belong to their images: sample n of the generator has class n % 3.
        for row in rows:
            number = int(row["key"].rpartition("/")[2].removesuffix(".2"))
            missing = name == "shard_missing_label.tar" and number == 2
            assert row["label"] == (-1 if missing else number % 3), row["key"]


@pytest.mark.parametrize(
    ("policy", "now_refused", "now_accepted"),
    [
        (
            "animated=reject",
            dict.fromkeys(("ok_animated.gif", "ok_animated.webp", "ok_multipage.tif"), "animated"),
            set(),
        ),
        ("missing_end=refuse", {"ok_missing_eoi.jpg": "truncated"}, set()),
        ("damaged_jpeg=refuse", {"bad_bitflips.jpg": "damaged"}, set()),
        ("truncated=accept", {}, {"bad_truncated_half.jpg", "bad_truncated.png"}),
        (
            "max_pixels=9599",
            dict.fromkeys(
                [
                    *("ok_16bit_rgb.png", "ok_animated.gif", "ok_animated.webp"),
                    *("ok_bogus_exif.jpg", "ok_bogus_icc.jpg", "ok_la.png", "ok_lossy.webp"),
                    *("ok_multipage.tif", "ok_palette.png", "ok_palette_transparency.png"),
                    *("ok_rgb.tif", "ok_rgba.png", "ok_wrong_suffix.jpg"),
                    *(f"ok_exif_{value}.jpg" for value in range(2, 9)),
                    *("bad_crc.png", "bad_truncated.png"),
                ],
                "too_many_pixels",
            ),
            set(),
        ),
    ],
)
def test_each_rule_of_the_decoder_moves_the_files_that_it_names(
    dirty, manifest, tmp_path, policy, now_refused, now_accepted
):
    images = [dirty / name for name in manifest if name not in TARS]
    rows, _ = screened(tmp_path, images, f"decode.{policy}", "max_bad_rate=1")
    expected = {n: r for n, r in (UNDECODABLE | now_refused).items() if n not in now_accepted}
    assert undecodable(rows) == expected


def test_a_bomb_is_refused_from_its_header_and_taken_only_under_a_higher_limit(dirty):
    data = (dirty / "bad_bomb_real.png").read_bytes()
    assert decode(data, DecodePolicy(max_pixels=144_000_000)).shape == (12_000, 12_000, 3)


def test_pictures_are_upright_and_have_their_colors(dirty, manifest):
    by_hand = {"ok_16bit_gray.png", "ok_float.tif"}  # Pillow's own conversion is wrong for these
    see_through = {"ok_la.png", "ok_rgba.png", "ok_palette_transparency.png", "ok_animated.webp"}
    checked = 0
    for name, entry in manifest.items():
        if name in TARS or name in UNDECODABLE or "mean_rgb_convert" not in entry:
            continue
        pixels = decode((dirty / name).read_bytes())
        width, height = entry.get("upright_size", entry["pillow_open"]["size"])
        assert pixels.shape == (height, width, 3), name
        if name not in by_hand | see_through:
            mean = pixels.reshape(-1, 3).mean(0)
            np.testing.assert_allclose(mean, entry["mean_rgb_convert"], atol=0.3, err_msg=name)
            checked += 1
    assert checked == 28


def test_rotated_pictures_show_the_same_cat(dirty):
    upright = decode((dirty / "ok_rgb.tif").read_bytes()).astype(int)
    for value in range(2, 9):
        pixels = decode((dirty / f"ok_exif_{value}.jpg").read_bytes())
        assert np.abs(pixels - upright).mean() < 4, value


def test_wide_gray_values_are_scaled_and_not_clipped(dirty):
    gray = decode((dirty / "ok_gray.jpg").read_bytes())
    for name in ("ok_16bit_gray.png", "ok_float.tif"):
        pixels = decode((dirty / name).read_bytes())
        # data/README.md: the 16-bit picture has mean 115.6; both show what the gray JPEG shows.
        assert abs(pixels.mean() - 115.6) < 0.6, name
        side = pixels.shape[0]
        assert np.abs(pixels.astype(int) - gray[:side, :side]).mean() < 6, name


@pytest.mark.parametrize("name", ["ok_la.png", "ok_rgba.png", "ok_palette_transparency.png"])
@pytest.mark.parametrize("level", [0, 255])
def test_transparent_pixels_show_the_background_of_the_recipe(dirty, name, level):
    image = Image.open(dirty / name).convert("RGBA")
    behind = Image.new("RGBA", image.size, (level, level, level, 255))
    expected = np.asarray(Image.alpha_composite(behind, image).convert("RGB")).astype(int)
    pixels = decode((dirty / name).read_bytes(), DecodePolicy(alpha_background=level))
    assert np.abs(pixels - expected).max() <= 1
    other = decode((dirty / name).read_bytes(), DecodePolicy(alpha_background=100))
    assert (pixels != other).any()
