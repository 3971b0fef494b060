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
    "segment": f"#/segment?of=r0,r1&plus={PART}",
    "heads": "#/dense?of=r0",
    "duplicates": "#/duplicates?of=r0&from=0.9",
    "map": "#/map?clusters=0",
    "two models": "#/search?of=r0&model=both",
    "expired": "#/search?of=uAAAAAAAAAAAAAAAA",
}
CONTRAST = {"resultTypes": ["violations"], "runOnly": ["color-contrast"]}
TOUCH = {"resultTypes": ["violations"], "runOnly": ["color-contrast", "target-size"]}
# Rules for a wide window and for a telephone: the elements are the same in all of them.
LOOKS = {"light": ({"resultTypes": ["violations"]}, TOUCH), "dark": (CONTRAST, CONTRAST)}
SIZES = ({"width": 1280, "height": 860}, {"width": 390, "height": 844})


def faults_of(page, rules):
    """What is serious, and whether the page is wider than the window."""
    for size, rule in zip(SIZES, rules, strict=True):
        page.set_viewport_size(size)
        settle(page)
        where = f"{page.url} at {size['width']} px"
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            yield f"{where}: too wide"
        for one in Axe().run(page, options=rule).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                nodes = [node["html"][:160] for node in one["nodes"][:3]]
                yield f"{where}: {one['id']}: {one['help']}: {nodes}"


@pytest.mark.parametrize("look", LOOKS)
def test_no_view_has_serious_faults_or_is_wider_than_the_screen(open_page, class_demo, look):
    page = open_page(color_scheme=look)
    faults = []
    for address in VIEWS.values():
        page.goto(f"/{address}")
        settle(page)
        faults += faults_of(page, LOOKS[look])
    for name in ("About", "Keys and help"):
        page.get_by_role("button", name=name).press("Enter")
        page.wait_for_selector("dialog[open]")
        faults += faults_of(page, LOOKS[look])
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog[open]", state="detached")
    page.close()
    page = open_page("#/map?by=classes&classes=0", of=class_demo, color_scheme=look)
    faults += faults_of(page, LOOKS[look])
    assert not faults, "\n".join(faults)
