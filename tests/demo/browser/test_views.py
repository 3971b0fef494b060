"""Every view by mouse and by keyboard, on pictures of which the answer is known."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from .conftest import settle, upload_picture, wait_until

# The first test starts the server, on a machine that may be busy.
pytestmark = pytest.mark.timeout(600)


def pixels(canvas):
    """Colors of a canvas ``[rows, columns, 4]``."""
    script = """(one) => [one.width, one.height,
      [...one.getContext("2d").getImageData(0, 0, one.width, one.height).data]]"""
    width, height, flat = canvas.evaluate(script)
    return np.array(flat, np.uint8).reshape(height, width, 4)


def hottest(board):
    """Column and row of the patch with the highest value; it is the most opaque one."""
    opacity = pixels(board.locator(".layer canvas"))[..., 3]
    row, column = np.unravel_index(opacity.argmax(), opacity.shape)
    return int(column), int(row)


def at_patch(board, column, row, of=8):
    box = board.bounding_box()
    return {"x": (column + 0.5) * box["width"] / of, "y": (row + 0.5) * box["height"] / of}


def size_of(path):
    with Image.open(path) as picture:
        picture.verify()
        return picture.size


def saved(page, name):
    """Press a button that saves a file; returns its path."""
    with page.expect_download() as download:
        page.get_by_role("button", name=name).press("Enter")
    return download.value.path()


@pytest.fixture
def noise(open_page, demo):
    """Open a page with a picture of 8 x 8 different patches in hand; returns it and the picture."""
    page = open_page()
    return page, upload_picture(page, demo.folder / "noise.png")


def test_a_clicked_patch_is_the_hottest_and_results_have_boxes(noise):
    page, ref = noise
    page.goto(f"/#/parts?of={ref}")
    settle(page)
    board = page.locator(".board")
    board.click(position=at_patch(board, 6, 2))
    settle(page)
    wait_until(page, lambda: hottest(board), (6, 2))
    expect(page.locator(".shots .hit")).to_have_count(24)
    board.click(position=at_patch(board, 1, 5), modifiers=["Shift"])
    expect(board.locator(".mark.over.add")).to_have_count(2)
    board.click(position=at_patch(board, 0, 0), modifiers=["Alt"])
    settle(page)
    expect(board.locator(".mark.over.add")).to_have_count(2)
    expect(board.locator(".mark.over.sub")).to_have_count(1)
    page.reload()
    settle(page)
    expect(page.locator(".board .mark.over")).to_have_count(3)
    table = saved(page, "Save list").read_text().splitlines()
    assert len(table) == 25
    assert size_of(saved(page, "Save picture")) == (112, 112)


def test_a_box_is_dragged(noise):
    page, ref = noise
    page.goto(f"/#/parts?of={ref}")
    settle(page)
    board = page.locator(".board")
    box, first, last = board.bounding_box(), at_patch(board, 2, 3), at_patch(board, 4, 4)
    page.mouse.move(box["x"] + first["x"], box["y"] + first["y"])
    page.mouse.down()
    page.mouse.move(box["x"] + last["x"], box["y"] + last["y"], steps=3)
    page.mouse.up()
    page.wait_for_url("**add=2500.3750.6250.6250*")
    settle(page)
    expect(board.locator(".mark.over.add")).to_have_count(1)


def test_a_part_is_chosen_stretched_and_taken_back_by_keys(noise):
    page, ref = noise
    page.goto(f"/#/parts?of={ref}")
    settle(page)
    board = page.locator(".board")
    board.focus()
    for key in ("ArrowLeft", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    settle(page)
    wait_until(page, lambda: hottest(board), (3, 3))
    for key in ("ArrowRight", "Shift+ArrowRight", "+", "ArrowDown", "-"):
        page.keyboard.press(key)
    settle(page)
    expect(page.locator(".board .mark.over.add")).to_have_count(2)
    expect(page.locator(".board .mark.over.sub:not(.cursor)")).to_have_count(1)
    page.keyboard.press("Delete")
    expect(page.locator(".board .mark.over.sub")).to_have_count(0)
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")
    expect(page.get_by_text("Nothing chosen yet")).to_be_visible()


def test_a_picture_and_its_moved_copy_match_by_the_shift(noise, demo):
    page, ref = noise
    other = upload_picture(page, demo.folder / "moved.png")
    page.goto(f"/#/match?of={ref},{other}")
    settle(page)
    pairs = np.array(json.loads(saved(page, "Save pairs").read_text())["pairs"])
    shifts = pairs[:, 2:4] - pairs[:, :2]
    assert len(pairs) >= 30
    assert (shifts == [1, 2]).all(axis=1).mean() > 0.8
    first, second = page.locator(".stage .board").all()
    first.hover(position=at_patch(first, 3, 2))
    expect(second.locator(".layer canvas")).to_be_attached()
    wait_until(page, lambda: hottest(second), (5, 3))
    first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#announcements")).to_contain_text("row 4, column 7")
    page.keyboard.press("Tab")
    settle(page)
    assert min(size_of(saved(page, "Save picture"))) >= 112


def test_a_single_picture_is_matched_with_its_nearest(open_page):
    page = open_page()
    page.route("**/api/search", lambda route: route.fulfill(json={"hits": []}), times=1)
    page.goto("/#/match?of=r0")
    status = page.locator(".match > .status-line")
    expect(status).to_contain_text("The collection has no other image")
    page.reload()
    page.wait_for_url("**of=r0,r39*")
    settle(page)
    expect(status).to_contain_text("similarity 1.00 to 1.00")

    def expire(route):
        asked = route.request.post_data_json | {"target": {"id": 16 * "A"}}
        route.continue_(post_data=json.dumps(asked))

    # A picture that the server has dropped meanwhile is opened again.
    page.route("**/api/heat", expire, times=1)
    first, second = page.locator(".stage .board").all()
    first.hover(position=at_patch(first, 3, 2))
    expect(second.locator(".layer canvas")).to_be_attached()


def test_colors_are_those_of_before_after_a_reload(open_page):
    page = open_page("#/colors?of=r0,r9,r17&threshold=0")
    canvases = page.locator(".pairs .layer canvas")
    before = [pixels(one) for one in canvases.all()]
    assert len(before) == 3
    assert all(one[..., :3].std() > 5 for one in before)
    page.reload()
    settle(page)
    after = [pixels(one) for one in canvases.all()]
    np.testing.assert_array_equal(before, after)
    page.get_by_label("Foreground above").focus()
    page.keyboard.press("End")
    expect(page.get_by_role("alert")).to_contain_text("patches above a threshold")


def test_an_address_with_one_picture_shows_one(open_page):
    page = open_page("#/colors?of=r1")
    page.goto("/#/colors?of=r5&threshold=0&map=unknown&show=0")
    settle(page)
    pictures, other = page.locator(".pairs > li"), page.locator('#hand [data-ref="r1"]')
    expect(pictures).to_have_count(1)
    for count in (2, 1):
        other.click()
        expect(pictures).to_have_count(count)
    assert "of=r5&" in page.url
    page.goto("/#/parts?of=r1&add=0.0.5000.5000&map=unknown")
    settle(page)
    expect(page.locator(".shots .hit").first).to_be_visible()


def test_views_of_patches_need_a_network_with_patches(open_page):
    page, first = open_page(), 1

    def without_patches(route):
        answer = route.fetch()
        card = answer.json()
        for model in card["models"][first:]:
            model["model"] |= {"patch_size": 0, "num_heads": 0}
        route.fulfill(response=answer, json=card)

    page.route("**/api/card", without_patches)
    page.goto("/#/parts?of=r0&model=both")
    page.reload()
    settle(page)
    panes = page.locator(".pane")
    expect(panes.nth(0).locator(".board")).to_be_visible()
    expect(panes.nth(1)).to_contain_text("This network has no patches")
    first = 0
    page.reload()
    settle(page)
    expect(panes.nth(0)).to_contain_text("This network has no patches")
    page.goto("/#/collection?row=3")
    settle(page)
    links = page.get_by_role("dialog").locator(".links a")
    expect(links).to_have_text(["Similar images", "Heads", "Duplicates"])


def test_attention_has_a_map_per_head_and_a_threshold(open_page):
    page = open_page("#/attention?of=r3")
    expect(page.locator(".heads figcaption b")).to_have_text(
        ["Picture", "Mean", "Maximum", "Head 1", "Head 2"]
    )
    captions = page.locator(".heads figcaption")
    expect(captions.nth(3)).to_have_text(re.compile(r"^Head 1 \d+ % on patches$"))
    page.get_by_label("Keep").focus()
    for _ in range(3):
        page.keyboard.press("PageDown")
    expect(captions.nth(3)).to_contain_text("patches kept")
    page.wait_for_url("**mass=*")
    assert min(size_of(saved(page, "Save picture"))) >= 112


def test_clicks_cut_out_what_looks_like_it_everywhere(open_page, demo):
    page = open_page()
    refs = [upload_picture(page, demo.folder / name) for name in ("halves.png", "turned.png")]
    page.goto(f"/#/segment?of={refs[0]}")
    settle(page)
    page.get_by_role("button", name="In all your pictures").press("Enter")
    board = page.locator(".query .board")
    board.click(position=at_patch(board, 1, 1))
    expect(board.locator(".mark.over.add")).to_have_count(1)
    board.click(position=at_patch(board, 6, 6), modifiers=["Alt"])
    settle(page)
    wanted = "1 wanted, 1 not wanted; 50 % of the patches are cut out."
    expect(page.locator(".segment > .note").first).to_have_text(wanted)
    with Image.open(saved(page, "Save mask")) as picture:
        mask = np.array(picture.convert("L")) > 0
    assert mask[:, : mask.shape[1] // 2 - 12].all()
    assert not mask[:, mask.shape[1] // 2 + 12 :].any()
    first, second = json.loads(saved(page, "Save run lengths").read_text())["images"]
    assert first["runs"] == [0, *[4] * 16]
    assert second["runs"] == [*[4] * 16]
    # Two more at once; as frames all follow the first in the order in which they were added.
    page.goto(f"/#/segment?of={refs[0]}&plus=1250.1250.2500.2500&minus=7500.7500.8750.8750")
    settle(page)
    page.set_input_files("#file", [demo.folder / "halves.png", demo.folder / "turned.png"])
    expect(page.locator(".segment .pairs li")).to_have_count(2)
    page.locator("#hand .picture").nth(2).click()
    page.locator("#hand .picture").nth(1).click()
    expect(page.locator(".segment .pairs li")).to_have_count(0)
    with page.expect_request("**/api/segment") as asked:
        page.get_by_label("As frames of a video").check()
    page.wait_for_url("**frames=1**")
    settle(page)
    order = [one.get_attribute("data-ref")[1:] for one in page.locator("#hand .picture").all()]
    assert order[:2] == [ref[1:] for ref in refs]
    assert asked.value.post_data_json["propagate"] == order[1:]
    followed = json.loads(saved(page, "Save run lengths").read_text())["images"]
    halves = [first["runs"], second["runs"]]
    assert [one["runs"] for one in followed] == [*halves, *halves]
    board.focus()
    page.keyboard.press("Delete")
    expect(board.locator(".mark.over.sub")).to_have_count(0)
    page.get_by_role("link", name="Find in the collection").press("Enter")
    page.wait_for_url("**/#/parts?*")
    settle(page)
    expect(page.locator(".shots .hit").first).to_be_visible()


def test_two_models_stand_side_by_side(open_page):
    page = open_page("#/search?of=r0&k=12")
    page.get_by_label("Both").check()
    page.wait_for_url("**model=both*")
    settle(page)
    expect(page.locator("h2.model")).to_have_count(2)
    expect(page.locator(".pane").nth(0).locator(".shots a").first).to_contain_text("1.000")
    expect(page.locator(".pane").nth(1).locator(".shots a").first).to_contain_text("1.000")
    page.locator(".controls select").first.select_option("24")
    settle(page)
    expect(page.locator(".controls select").last).to_have_value("24")
    expect(page.locator(".pane").nth(1).locator(".shots a")).to_have_count(24)


def test_heads_name_classes_and_read_depth(open_page):
    page = open_page("#/dense?of=r0")
    classes = page.locator(".classes")
    expect(classes.locator("label").first).to_contain_text("%")
    shares = [int(text.split()[-2]) for text in classes.locator("label").all_inner_texts()]
    assert abs(sum(shares) - 100) <= 2
    canvas = page.locator(".board .layer canvas")
    classes.locator("input").first.press("Space")

    def share_hidden():
        return (pixels(canvas)[..., 3] == 0).mean()

    wait_until(page, share_hidden, pytest.approx(shares[0] / 100, abs=0.01))
    page.reload()
    settle(page)
    wait_until(page, share_hidden, pytest.approx(shares[0] / 100, abs=0.01))
    page.locator(".controls select").first.select_option("depth")
    page.wait_for_url("**head=depth*")
    assert "hide" not in page.url
    settle(page)
    page.locator(".board").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".query .note")).to_contain_text(" m")
    page.goto("/#/dense?of=r0&head=things")
    settle(page)
    expect(page.locator(".controls select").first).to_have_value("things")


def test_copies_are_listed_compared_and_saved(open_page):
    page = open_page("#/duplicates?of=r0&from=0.999")
    first = page.locator(".shots a").first
    expect(first).to_contain_text("rocket_7")
    expect(page.get_by_text("above a similarity of 0.999")).to_be_visible()
    page.get_by_label("Difference").check()
    canvas = page.locator(".compare canvas")
    expect(canvas).to_have_attribute("aria-label", "Images 0 and 39, difference")
    settle(page)
    wait_until(page, lambda: bool(pixels(canvas)[..., :3].any()), False)  # a copy
    page.get_by_label("Blink").check()
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert "rocket_7" in saved(page, "Save list").read_text()


def test_without_copies_there_is_no_list_of_them(open_page):
    page = open_page("#/duplicates?of=r9&from=1")
    expect(page.get_by_text("No copy above a similarity of 1.")).to_be_visible()
    expect(page.get_by_role("heading", name="Copies")).to_be_hidden()
    page.get_by_role("button", name="Save picture").press("Enter")
    expect(page.get_by_role("alert")).to_have_text("There is nothing to save yet.")


def test_what_cannot_be_saved_is_explained(noise):
    page, ref = noise
    page.goto(f"#/parts?of={ref}")
    settle(page)
    # As after half an hour: the server does not know the picture any more.
    unknown = f"{page.url.partition('#')[0]}api/images/{16 * 'A'}"
    page.route(f"**/api/images/{ref[1:]}", lambda route: route.continue_(url=unknown))
    page.get_by_role("button", name="Save picture").press("Enter")
    alert = page.get_by_role("alert")
    expect(alert).to_have_text(re.compile("^This picture has expired. .* add it again.$"))
    page.unroute_all()
    assert size_of(saved(page, "Save picture")) == (112, 112)
    expect(alert).to_have_count(0)


def test_a_map_of_some_images_states_that_others_are_in_no_list(open_page):
    page = open_page()

    def draw_half(route):
        answer = route.fetch()
        drawn = answer.json()
        for name in ("rows", "x", "y", "cluster"):
            drawn[name] = drawn[name][::2]
        route.fulfill(response=answer, json=drawn)

    page.route("**/api/map?*", draw_half)
    page.goto("#/map")
    settle(page)
    page.locator(".clusters input").first.press("Space")
    status = page.locator(".map > .note")
    expect(status).to_have_text(re.compile(r"^\d+ images? of the 20 drawn selected\.$"))


def test_a_lasso_on_the_map_makes_a_list_of_keys(open_page):
    page = open_page("#/map")
    canvas = page.locator(".sea canvas")
    box = canvas.bounding_box()
    path = [(4, 4), (0.5, 4), (0.5, 0.5), (4, 0.5)]  # from the corner to the middle
    places = [
        (
            box["x"] + x * (box["width"] if x < 1 else 1),
            box["y"] + y * (box["height"] if y < 1 else 1),
        )
        for x, y in path
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in [*places[1:], places[0]]:
        page.mouse.move(*place, steps=2)
    page.mouse.up()
    status = page.locator(".map > .note")
    expect(status).to_have_text(re.compile(r"^\d+ images? selected"))
    number = int(status.text_content().split()[0])
    assert 0 < number < 40
    keys = saved(page, "Save keys").read_text().split()
    assert len(keys) == number
    assert all("_" in key for key in keys)
    page.reload()
    settle(page)
    expect(status).to_contain_text(f"{number} image")
    page.get_by_role("button", name="Clear").press("Enter")
    expect(status).to_contain_text("Nothing selected")


def test_the_map_is_used_by_keys(open_page):
    page = open_page("#/map")
    canvas = page.locator(".sea canvas")
    canvas.focus()
    page.keyboard.press("Space")
    for key, times in (("ArrowRight", 30), ("ArrowDown", 30)):
        for _ in range(times):
            page.keyboard.press(key)
        page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_url("**lasso=*")
    expect(page.locator(".map > .note")).to_have_text(re.compile(r"^\d+ images? selected"))
    page.get_by_role("button", name="Clear").press("Enter")
    expect(page.locator(".map > .note")).to_contain_text("Nothing selected")
    page.get_by_role("button", name="Zoom in").press("Enter")
    page.wait_for_url("**zoom=140.*")
    page.locator(".clusters input").first.press("Space")
    page.wait_for_url("**clusters=*")
    expect(page.locator(".map > .note")).to_have_text(re.compile(r"^\d+ images? selected"))


def test_a_branch_of_the_dendrogram_selects_the_images_of_its_classes(open_page, class_demo):
    page = open_page("#/map", of=class_demo)
    page.get_by_role("radio", name="Classes").check()
    settle(page)
    tree, status = page.get_by_role("tree"), page.locator(".map > .note")
    branches = tree.get_by_role("treeitem")
    expect(branches).to_have_count(9)
    expect(page.locator("section.clusters .note")).to_contain_text("Cophenetic correlation: ")
    branches.first.focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(status).to_contain_text("8 images selected")
    last = branches.nth(8)
    expect(last).to_have_attribute("aria-checked", "true")
    expect(branches.first).to_have_attribute("aria-checked", "mixed")
    keys = saved(page, "Save keys").read_text().split()
    name = last.get_attribute("aria-label").split(";")[0]
    assert [key.partition("/")[0] for key in keys] == [name] * 8
    # The chosen classes are in sight, even if the list is longer than its frame.
    page.set_viewport_size({"width": 1280, "height": 160})
    page.reload()
    settle(page)
    assert page.locator("section.clusters").evaluate("one => one.scrollTop") > 0
    page.set_viewport_size({"width": 1280, "height": 860})
    page.reload()
    settle(page)
    expect(status).to_contain_text("8 images selected")
    last.click(position={"x": 60, "y": 12})
    expect(status).to_contain_text("Nothing selected")
    branches.first.click(position={"x": 5, "y": 10})
    expect(status).to_contain_text("40 images selected")
    assert "classes=0,1,2,3,4" in page.url
    assert size_of(saved(page, "Save dendrogram")) == (310, 5 * 24)


def test_the_dendrogram_is_walked_by_keys_and_drawn_in_the_colors_of_the_page(
    open_page, class_demo
):
    page = open_page("#/map?by=classes", of=class_demo, color_scheme="dark")
    page.get_by_role("treeitem").first.focus()
    levels = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "Home"):
        page.keyboard.press(key)
        levels.append(page.evaluate("document.activeElement.ariaLevel"))
    assert levels == ["2", "3", "2", "3", "1"]
    canvas = page.locator(".twigs canvas")
    assert pixels(canvas)[..., :3].mean() < 100
    page.emulate_media(color_scheme="light")
    wait_until(page, lambda: bool(pixels(canvas)[..., :3].mean() > 200), True)


def test_an_image_and_its_facts_are_saved(open_page):
    page = open_page("#/collection?row=5")
    assert size_of(saved(page, "Save picture")) == (168, 140)
    facts = json.loads(saved(page, "Save facts").read_text())
    assert (facts["row"], facts["width"]) == (5, 168)
