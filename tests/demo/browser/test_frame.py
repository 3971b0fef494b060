"""The frame around the views: pictures in hand, refusals, keys, addresses."""

import base64
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .conftest import settle, wait_until

# The first test starts the server, on a machine that may be busy.
pytestmark = pytest.mark.timeout(600)


ICON = "demo/page/icon.svg"


def add_picture(page, path):
    with page.expect_response(lambda one: one.url.endswith("/api/images")) as answer:
        page.set_input_files("#file", path)
    return answer.value


def test_the_collection_is_walked_by_keys_and_an_image_is_opened(open_page):
    page = open_page()
    expect(page.locator(".wall a").nth(20)).to_be_attached()
    columns = int(page.locator(".wall").evaluate("one => one.style.getPropertyValue('--columns')"))
    row = {number: page.locator(f'.wall a[data-row="{number}"]') for number in range(40)}
    row[0].focus()
    for key, number in (("ArrowRight", 1), ("ArrowDown", columns + 1), ("ArrowLeft", columns)):
        page.keyboard.press(key)
        expect(row[number]).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**row={columns}")
    expect(page.get_by_role("dialog")).to_contain_text("168 × 140")
    page.reload()
    settle(page)
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    # The browser announces the end of a dialog later, and only then a row can have the focus.
    expect(row[columns]).to_be_focused()
    page.keyboard.press("End")
    expect(row[39]).to_be_focused()


def test_an_upload_finds_the_image_that_it_is(open_page, demo):
    page = open_page()
    assert add_picture(page, demo.folder / "images/coffee_3.png").ok
    page.wait_for_url("**/#/search?of=u*")
    settle(page)
    first = page.locator(".shots a").first
    expect(first).to_contain_text("1.000")
    expect(first).to_contain_text("coffee_3")
    expect(page.get_by_text(re.compile("^24 results in"))).to_be_visible()
    expect(page.locator("#announcements")).to_contain_text("The most similar: coffee_3, 1.000")


def test_a_picture_is_pasted_and_dropped(open_page, demo):
    page = open_page()
    data = base64.b64encode((demo.folder / "images/retina_1.png").read_bytes()).decode()
    make = """([kind, data]) => {
      const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "x.png", { type: "image/png" }));
      const options = { bubbles: true, cancelable: true };
      const event = kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: transfer, ...options })
        : new DragEvent("drop", { dataTransfer: transfer, ...options });
      document.dispatchEvent(event);
    }"""
    for number, kind in enumerate(("paste", "drop"), 1):
        page.evaluate(make, [kind, data])
        expect(page.locator("#hand [data-ref]")).to_have_count(number)


def test_a_face_is_refused_with_the_reason_or_blurred(open_page, demo):
    page = open_page()
    assert add_picture(page, demo.folder / "person.jpg").status == 422
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("discarded")
    page.get_by_role("button", name="Blur faces and continue").press("Enter")
    page.wait_for_url("**/#/search?of=u*")
    settle(page)
    expect(page.locator(".shots a").first).to_be_visible()
    expect(page.get_by_text("1 face blurred in what you added.")).to_be_visible()


@pytest.mark.parametrize(
    "content", [b"GIF87a but no more", b"\x89PNG\r\n\x1a\n" + bytes(21_000_000)]
)
def test_what_is_no_picture_or_too_large_is_refused_in_words(open_page, tmp_path, content):
    page = open_page()
    (tmp_path / "x.png").write_bytes(content)
    page.set_input_files("#file", tmp_path / "x.png")
    expect(page.get_by_role("dialog")).to_contain_text("The picture was not added")
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_an_upload_that_has_expired_is_explained(open_page):
    page = open_page("#/search?of=uAAAAAAAAAAAAAAAA")
    expect(page.get_by_role("alert")).to_contain_text(re.compile("expired.*30 minutes"))
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    expect(page.locator("#hand li")).to_contain_text("missing")


def changed_card(change):
    """Handle requests for the card: what the server answers, changed."""

    def answer(route):
        response = route.fetch()
        card = response.json()
        change(card)
        route.fulfill(response=response, json=card)

    return answer


def test_random_weights_and_a_missing_face_gate_are_announced_on_every_view(open_page):
    page = open_page("#/search?of=r0")
    expect(page.locator(".banner")).to_contain_text(["not trained"])
    page.route("**/api/card", changed_card(lambda card: card.update(faces="off")))
    page.reload()
    expect(page.locator(".banner")).to_contain_text(["not trained", "Faces are not detected"])


def test_keys_open_views_unless_they_are_switched_off(open_page):
    page = open_page("#/search?of=r3")
    page.keyboard.press("a")
    page.wait_for_url("**/#/attention?of=r3*")
    expect(page.locator("h1")).to_be_focused()
    settle(page)
    page.keyboard.press("?")
    page.get_by_label("Single letters open views").uncheck()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("c")
    page.keyboard.press("/")
    expect(page.locator("#file")).to_be_focused()
    expect(page).to_have_url(re.compile("attention"))


def test_a_result_leads_on_and_escape_leads_back(open_page):
    page = open_page("#/search?of=r0")
    first = page.locator(".shots a").first
    expect(first).to_have_attribute("data-row", "39")  # the copy
    first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".shots a").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "of=r0" not in url)
    settle(page)
    page.keyboard.press("Escape")
    page.wait_for_url("**of=r0*")


def hold(page, pattern, is_held):
    """Hold the requests of a pattern that fulfil a condition; returns the list of them."""
    held = []
    page.route(pattern, lambda one: held.append(one) if is_held(one.request) else one.continue_())
    return held


def release(page, held):
    """Let a request that is held go on, and wait until its answer has been read."""
    wait_until(page, lambda: len(held), 1)
    with page.expect_response(held[0].request.url):
        held[0].continue_()
    settle(page)


def test_a_slow_answer_changes_nothing_in_the_view_that_followed(open_page):
    page = open_page("#/search?of=r1")
    held = hold(page, "**/api/images/from-row", lambda one: one.post_data_json["row"] == 5)
    page.evaluate("location.hash = '#/search?of=r5'")
    wait_until(page, lambda: len(held), 1)
    page.go_back()
    settle(page)
    release(page, held)
    expect(page.locator(".query a")).to_have_attribute("href", "#/collection?row=1")
    # The copy that was compared with one picture is not compared with the next.
    page.goto("/#/duplicates?of=r0&with=39&from=0.5&how=blink")
    settle(page)
    count = """() => {
      const [set, clear, all] = [setInterval, clearInterval, new Set()];
      window.setInterval = (...one) => { const id = set(...one); all.add(id); return id; };
      window.clearInterval = (id) => { clear(id); all.delete(id); };
      window.blinking = all;
    }"""
    page.evaluate(count)
    rows = [one.get_attribute("data-row") for one in page.locator(".shots a").all()[1:3]]
    held = hold(page, f"**/api/rows/{rows[0]}/image", lambda _: True)
    page.locator(f'.shots a[data-row="{rows[0]}"]').click()
    wait_until(page, lambda: len(held), 1)
    page.locator(f'.shots a[data-row="{rows[1]}"]').click()
    settle(page)
    release(page, held)
    assert page.evaluate("blinking.size") == 1
    page.locator('#hand [data-ref="r1"]').click()
    page.wait_for_url("**of=r1*")
    assert "with=" not in page.url


def test_a_page_goes_on_after_a_restart_of_the_server(open_page):
    page = open_page()

    def send_old_token(route):
        route.continue_(headers=route.request.headers | {"x-csrf-token": "of another start"})

    page.route("**/api/search", send_old_token, times=1)
    page.goto("/#/search?of=r0")
    settle(page)
    expect(page.locator(".shots a")).to_have_count(24)
    page.route("**/api/card", changed_card(lambda card: card.update(version="another")))
    page.route("**/api/search", send_old_token, times=1)
    page.locator(".shots a").first.click()
    expect(page.get_by_role("alert")).to_contain_text("Reload the page.")


def test_the_last_of_five_million_images_is_reached(open_page):
    page, total = open_page(), 5_000_000

    def rows(route):
        first, number = (int(one) for one in re.findall(r"(?:from|count)=(\d+)", route.request.url))
        images = [{"row": row, "facts": {}} for row in range(first, min(total, first + number))]
        route.fulfill(json={"total": total, "rows": images})

    def enlarge(card):
        for model in card["models"]:
            model["index"]["num_images"] = total

    page.route("**/api/card", changed_card(enlarge))
    page.route("**/api/rows?*", rows)
    page.route("**/thumb*", lambda route: route.fulfill(path=Path(__file__).parents[3] / ICON))
    page.reload()
    page.locator(".wall a").first.focus()
    page.keyboard.press("End")
    expect(page.locator(f'.wall a[data-row="{total - 1}"]')).to_be_focused()
    beyond = """one => document.activeElement.getBoundingClientRect().bottom
      - one.getBoundingClientRect().bottom"""
    assert -160 < page.locator(".scroller").evaluate(beyond) < 8
    expect(page.locator(".controls .note")).to_have_text(re.compile("to 5,000,000 of 5,000,000$"))
    page.keyboard.press("ArrowLeft")
    expect(page.locator(f'.wall a[data-row="{total - 2}"]')).to_be_focused()
    page.locator(".scroller").evaluate("one => { one.scrollTop = one.scrollHeight / 2; }")
    expect(page.locator(".controls .note")).to_have_text(re.compile(r"^2,\d{3},\d{3} to 2,"))
    expect(page.locator(".wall a").nth(15)).to_be_in_viewport()


def test_everything_is_in_150_kilobytes(demo):
    from importlib.resources import files

    page = files("dinoforge.demo") / "page"
    sizes = [one.stat().st_size for one in page.rglob("*") if one.is_file()]
    assert sum(sizes) <= 150_000
