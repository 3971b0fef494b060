"""The site is built without a warning, asks no network for anything, and leads to everything."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from filelock import FileLock

import dinoforge.errors
from dinoforge.cli.arguments import config_class
from dinoforge.cli.main import COMMANDS
from dinoforge.config import RECIPE_KINDS, describe_keys, list_recipes
from dinoforge.slurm.profile import Profile

pytestmark = pytest.mark.timeout(400)  # one test builds the site, while others wait for it


@pytest.fixture(scope="session")
def site(root, tmp_path_factory):
    """Folder of the built site, built once for all workers of a test run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    out = shared / "site"
    with FileLock(f"{out}.lock"):
        if not (out / "index.html").exists():
            words = ["-E", "-W", "--keep-going", "-q", "-d", f"{out}.cache", root / "docs", out]
            done = subprocess.run(
                [sys.executable, "-m", "sphinx", *words], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
    return out


class Page(HTMLParser):
    """Ids, links and assets of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.assets = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs["id"]} if attrs.get("id") else set()
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        elif tag in {"link", "script", "img", "source", "iframe"}:
            self.assets |= {attrs[name] for name in ("href", "src", "srcset") if attrs.get(name)}


@pytest.fixture(scope="session")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


@pytest.fixture(scope="session")
def inventory(site):
    """(kind, name) -> page and anchor, as other sites read it."""
    head, _, packed = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    assert b"inventory version 2" in head
    rows = [
        re.fullmatch(r"(.+?) (\S+:\S+) (-?\d+) (\S+) (.*)", line)
        for line in zlib.decompress(packed).decode().splitlines()
    ]
    return {
        (row[2].removeprefix("std:"), row[1]): row[4].replace("$", row[1]) for row in rows if row
    }


def lead_somewhere(pages, targets):
    for target in targets:
        page, _, anchor = target.partition("#")
        assert anchor, target
        assert anchor in pages[page].ids, target


def test_every_recipe_key_is_an_anchor_of_the_site(keys, pages, inventory):
    known = {f"{command}-key": keys[command] for command in RECIPE_KINDS}
    known["profile-key"] = set(describe_keys(Profile))
    for kind, names in known.items():
        assert {name for which, name in inventory if which == kind} == names
        lead_somewhere(pages, [inventory[kind, name] for name in names])


@pytest.mark.parametrize("command", RECIPE_KINDS)
def test_a_key_is_shown_with_type_default_range_and_meaning(site, command):
    page = (site / f"reference/{command}-keys.html").read_text(encoding="utf-8")
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())
    for help_ in describe_keys(config_class(RECIPE_KINDS[command])).values():
        shown = f"{help_.key}: {help_.type}"
        shown += "" if help_.default in {"required", "???"} else f" = {help_.default or repr('')}"
        shown = " ".join(shown.split())
        assert shown in text, shown
        parts = help_.meaning.replace("`", "").rstrip("."), help_.range
        # The name of a key may end that of another: `sets[].train` and `train`.
        bodies = [body[:2000] for body in text.split(shown)[1:]]
        assert any(all(" ".join(p.split()) in body for p in parts) for body in bodies), help_.key


def test_every_command_option_and_recipe_is_an_anchor_of_the_site(pages, inventory):
    lead_somewhere(pages, [inventory["label", f"command-{name}"] for name in COMMANDS])
    options = {name for kind, name in inventory if kind == "cmdoption"}
    assert {f"dinoforge-{name}.--json" for name in COMMANDS} <= options
    assert {"dinoforge-train.--evaluate", "dinoforge-explain.IMAGE"} <= options
    for kind in [*RECIPE_KINDS.values(), "slurm"]:
        names = [f"recipe-{kind}-{name}" for name in list_recipes(kind)]
        lead_somewhere(pages, [inventory["label", name.lower()] for name in names])


def test_every_error_class_and_exit_code_is_an_anchor_of_the_site(site, pages, inventory):
    kinds = [
        kind
        for kind in dinoforge.errors.DinoforgeError.__subclasses__()
        if kind.__module__ == "dinoforge.errors"
    ]
    assert len(kinds) >= 4
    text = (site / "reference/errors.html").read_text(encoding="utf-8")
    for kind in kinds:
        lead_somewhere(pages, [inventory["label", f"error-{kind.__name__.lower()}"]])
        lead_somewhere(pages, [inventory["py:exception", f"dinoforge.errors.{kind.__name__}"]])
        assert f"Exit code {kind.exit_code}<" in text


def test_every_link_inside_the_site_leads_to_a_page_and_an_anchor(site, pages):
    for name, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (site / name).parent / path if path else site / name
            assert target.exists(), f"{name}: {link}"
            if anchor and target.suffix == ".html":
                where = target.resolve().relative_to(site.resolve()).as_posix()
                assert anchor in pages[where].ids, f"{name}: {link}"


def test_no_page_loads_anything_from_a_network(site, pages):
    for name, page in pages.items():
        assert not [asset for asset in page.assets if re.match(r"(https?:)?//", asset)], name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


# What a newcomer types -> the pages of which one must be found by title or by name.
SEARCHES = {
    "threshold": {"reference/curate-keys"},
    "exit code 75": {"reference/errors"},
    "resume": {"howto/resume"},
    "positions": {"reference/evaluate-keys"},
    "knn": {"reference/evaluate-keys"},
}


@pytest.mark.parametrize("words", SEARCHES)
def test_a_newcomer_who_searches_is_led_to_the_page(site, words):
    index = json.loads((site / "searchindex.js").read_text()[len("Search.setIndex(") : -1])
    documents = index["docnames"]
    titles = {
        documents[document]
        for title, places in index["alltitles"].items()
        for document, _ in places
        if words in title.lower()
    }
    objects = {
        documents[entry[0]]
        for prefix, entries in index["objects"].items()
        for entry in entries
        if words in f"{prefix}.{entry[4]}".lower()
    }
    assert SEARCHES[words] <= titles | objects


def test_public_functions_are_anchors_of_the_site(pages, inventory):
    for kind, name in (
        ("function", "dinoforge.training.losses.koleo.koleo_loss"),
        ("function", "dinoforge.records.load"),
        ("class", "dinoforge.models.vit.VisionTransformer"),
    ):
        lead_somewhere(pages, [inventory[f"py:{kind}", name]])
    assert sum(kind == "py:function" for kind, _ in inventory) > 300


@pytest.mark.parametrize("words", SEARCHES)
def test_the_search_page_lists_that_page_among_the_first_four(site, tmp_path, words):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    address = f"{(site / 'search.html').as_uri()}?q={words.replace(' ', '+')}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    # No request to its maker's hosts, which it would wait for, and no profile of the user.
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += ["--no-first-run", f"--user-data-dir={tmp_path}"]
    done = subprocess.run(
        [chromium, *options, "--dump-dom", address], capture_output=True, text=True
    )
    results = re.findall(
        r'<li[^>]*>\s*<a href="([\w/-]+)\.html', done.stdout.split("search-results")[1]
    )
    assert SEARCHES[words] <= set(results[:4]), results
