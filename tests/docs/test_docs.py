"""What README and docs say of commands, links, files, keys and exit codes is so."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import dinoforge.errors
from dinoforge.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]

TEXTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
ROOMS = (
    "dinoforge|cli|curation|training|evaluation|demo|slurm|configs|docs|tests|benchmarks"
    "|requirements"
)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def commands(text, program):
    """Commands of one program: lines of code blocks, and words between back ticks."""
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()[1:-1]]
    lines = [part for line in lines for part in line.split("&&")]
    lines += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    result = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return [line for line in result if line.split(" ")[0] == program]


def anchors(path):
    """Names that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_parses_and_names_recipes_and_keys_that_there_are(name, check_command):
    for line in commands((ROOT / name).read_text(), "dinoforge"):
        is_name_alone = line.removeprefix("dinoforge ") in COMMANDS
        if not is_name_alone:
            check_command(line)


def test_the_readme_shows_the_commands_that_a_newcomer_needs():
    shown = {line.split()[1] for line in commands((ROOT / "README.md").read_text(), "dinoforge")}
    assert {"quickstart", "curate", "train", "evaluate", "explain"} <= shown <= set(COMMANDS)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("dinoforge report runs/x --on local:2", "no argument of"),
        ("dinoforge train cifar10_cpu optimzer.lr=1", "no key of"),
        ("dinoforge train my.yaml optimizer.lr=fast", "optimizer.lr"),
        ("dinoforge curate cifar11_cpu", "no such recipe"),
        ("dinoforge explain optimizer.lrr", "explain optimizer.lrr"),
    ],
)
def test_a_command_that_is_wrong_would_be_found(check_command, line, why):
    with pytest.raises((AssertionError, dinoforge.errors.UsageError), match=why):
        check_command(line)


@pytest.mark.parametrize("name", TEXTS)
def test_every_target_extra_and_marker_that_is_named_exists(name):
    text = (ROOT / name).read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in commands(text, "make"):
        assert set(line.split()[1:]) <= set(targets), line
    for line in commands(text, "pip"):
        for extras in re.findall(r"dinoforge\[([^\]]+)\]", line):
            assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"]), line
    markers = {m.partition(":")[0] for m in project["tool"]["pytest"]["ini_options"]["markers"]}
    for line in commands(text, "pytest"):
        assert set(re.findall(r"-m (\w+)", line)) <= markers, line


@pytest.mark.parametrize("name", TEXTS)
def test_every_relative_link_leads_to_a_file_and_a_heading_of_it(name):
    text = FENCE.sub("", (ROOT / name).read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@pytest.mark.parametrize("name", TEXTS)
def test_every_picture_is_there(name):
    text = FENCE.sub("", (ROOT / name).read_text())
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    pictures += re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text)
    for picture in pictures:
        assert ((ROOT / name).parent / picture).is_file(), picture


def sources():
    folders = ("dinoforge", "cli", "curation", "training", "evaluation", "demo", "slurm", "configs")
    result = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    return [path for path in result if path.suffix in {".py", ".yaml"}]


def test_every_file_that_is_named_between_back_ticks_or_as_source_exists():
    for path in [*(ROOT / name for name in TEXTS), *sources()]:
        text = path.read_text()
        named = re.findall(rf"`((?:{ROOMS})/[\w./-]*)`", text)
        named += re.findall(rf"^# source:\s+((?:{ROOMS})/[\w./-]*\w)", text, re.MULTILINE)
        for name in named:
            is_built = name.startswith(("dinoforge/_configs", "docs/_build"))
            assert is_built or (ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("name", TEXTS)
def test_every_recipe_key_that_is_named_exists(name, keys):
    known = set().union(*keys.values())
    sections = {key.split(".")[0] for key in known if "." in key}
    for word in re.findall(r"`([a-z_]+\.[a-z_.]+)(?:=[^`]*)?`", (ROOT / name).read_text()):
        if word.split(".")[0] in sections and not word.endswith(
            (".py", ".md", ".yaml", ".json", ".npy")
        ):
            assert word in known or any(key.startswith(f"{word}.") for key in known), word


def test_every_function_that_is_named_can_be_imported_and_is_public():
    text = (ROOT / "docs/reference/python.md").read_text()
    named = re.findall(r"^\| `([a-z_.]+)\.([a-z_]+)` \|", text, re.MULTILINE)
    result = [pair for pair in named if pair[1] != "py"]
    assert len(result) >= 3
    for module, name in result:
        assert name in importlib.import_module(module).__all__, f"{module}.{name}"


def test_every_exit_code_is_documented():
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| `cli/`"))
    reported = {int(code) for code in re.findall(r"\b(\d+) [a-z]", row)}
    kinds = [dinoforge.errors.DinoforgeError, *dinoforge.errors.DinoforgeError.__subclasses__()]
    kinds = [kind for kind in kinds if kind.__module__ == "dinoforge.errors"]
    assert reported == {0, *(kind.exit_code for kind in kinds)}
    for kind in kinds[1:]:
        drawn = rf"{kind.__name__}\s+exit {kind.exit_code}\b"
        assert re.search(drawn, dinoforge.errors.__doc__), kind


def test_every_room_of_the_ground_floor_is_in_the_table_of_the_architecture():
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    rooms = {path.parent.name for path in (ROOT / "dinoforge").glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}/`" not in text} == set()


def test_the_version_of_the_package_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dinoforge.__version__ == project["version"]


def test_the_citation_is_valid_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == dinoforge.__version__
    assert citation["message"]
    assert citation["title"]
    assert citation["authors"]
    papers = citation["references"]
    assert {paper["notes"] for paper in papers} == {
        *("DINO", "DINOv2", "DINOv3", "iBOT", "KoLeo", "PAWS")
    }
    for entry in [citation, *papers]:
        for author in entry["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"}), author
    for paper in papers:
        assert paper["type"] in {"article", "conference-paper"}
        assert 2018 < paper["year"] < 2030
        assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", paper["url"])
