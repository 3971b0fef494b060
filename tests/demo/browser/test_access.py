"""What axe-core finds in every view, and whether everything fits on a telephone."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from .conftest import settle

# The first test starts the server, on a machine that may be busy.
pytestmark = pytest.mark.timeout(600)

PART = "2500.2500.5000.5000"
VIEWS = {
    "collection": "",
    "an image": "#/collection?row=5",
    "start": "#/parts",
    "search": "#/search?of=r0",
    "parts": f"#/parts?of=r0&add={PART}&sub=0.0.1250.1250",
    "match": "#/match?of=r0,r1",
    "colors": "#/colors?of=r0,r9&threshold=0",
    "attention": "#/attention?of=r0&mass=0.6",
    "segment": f"#/segment?of=r0&plus={PART}&also=1",
    "heads": "#/dense?of=r0",
    "duplicates": "#/duplicates?of=r0&from=0.9",
    "map": "#/map?clusters=0",
    "two models": "#/search?of=r0&model=both",
    "expired": "#/search?of=uAAAAAAAAAAAAAAAA",
}
PLAIN = {"search", "colors", "heads", "duplicates", "expired"}  # made of the parts of others
LOOKS = {
    "light": ({"color_scheme": "light"}, {"resultTypes": ["violations"]}),
    # Elements are the same, only colors and sizes are others.
    "dark, 390 px": (
        {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
        {"resultTypes": ["violations"], "runOnly": ["color-contrast", "target-size"]},
    ),
}


def serious(page, rules):
    for one in Axe().run(page, options=rules).response["violations"]:
        if one["impact"] in ("serious", "critical"):
            where = [node["html"][:160] for node in one["nodes"][:3]]
            yield f"{page.url}: {one['id']}: {one['help']}: {where}"


@pytest.mark.parametrize("look", LOOKS)
def test_no_view_has_serious_faults_or_is_wider_than_the_screen(open_page, look):
    options, rules = LOOKS[look]
    page = open_page(**options)
    faults = []
    for name, address in VIEWS.items():
        if rules.get("runOnly") and name in PLAIN:
            continue
        page.goto(f"/{address}")
        settle(page)
        width, most = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        if width > most:
            faults.append(f"{name}: {width} px wide")
        faults += serious(page, rules)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    faults += serious(page, rules)
    assert not faults, "\n".join(faults)
