"""The live page in a real browser: what a person sees and what the buttons do."""

from __future__ import annotations

import math
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pages import SIZE, Page, served, until

from i2i_runtime.sources.base import SourceState
from i2i_runtime.sources.pattern import PatternSource

pytest.importorskip("aiohttp", reason="pip install 'i2i[preview]'")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PIXEL = """([x, y]) => {
    const canvas = document.getElementById("picture");
    return [...canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data].slice(0, 3);
}"""
PICTURE = 'document.getElementById("picture").toDataURL()'


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with served(tmp_path_factory.mktemp("captures")) as page:
        yield page


@pytest.fixture(scope="module")
def desktop(browser, page):
    with opened(browser, page) as tab:
        yield tab


@pytest.fixture
def tab(desktop, page):
    """The page on a desktop, showing the result."""
    desktop.click("[data-view=result]")
    desktop.wait_for_selector("[data-view=result][aria-pressed=true]")
    desktop.evaluate("document.activeElement.blur()")
    until(lambda: desktop.evaluate('document.getElementById("picture").width') == 320)
    return desktop


class opened:  # noqa: N801  (reads as a verb)
    """A tab with the page, from the first picture on."""

    def __init__(self, browser, page: Page, **device):
        self._browser, self._page, self._device = browser, page, device

    def __enter__(self):
        self._context = self._browser.new_context(**self._device)
        tab = self._context.new_page()
        self._errors: list[str] = []
        tab.on("pageerror", lambda error: self._errors.append(str(error)))
        tab.goto(self._page.sink.url)
        tab.wait_for_selector("#offline", state="hidden")
        # The canvas is twice as wide before the first picture.
        until(lambda: tab.evaluate('document.getElementById("picture").width') == 320)
        return tab

    def __exit__(self, *_):
        self._context.close()
        assert self._errors == []


@contextmanager
def frozen(page: Page) -> Iterator[None]:
    """The picture stands still: two looks at a pixel can be compared."""
    page.do("freeze")
    time.sleep(0.5)  # what is under way arrives
    try:
        yield
    finally:
        page.do("freeze")


def controls(page: Page) -> dict:
    return page.report()["controls"]


def sees(tab, before: list[int], after: list[int]) -> bool:
    """Whether the two are each other's negative, as far as JPEG keeps it."""
    return all(abs(a + b - 255) < 24 for a, b in zip(before, after, strict=True))


def test_the_picture_moves(tab):
    first = tab.evaluate(PICTURE)

    until(lambda: tab.evaluate(PICTURE) != first)


def test_nothing_is_loaded_from_elsewhere(browser, page):
    asked: list[str] = []
    context = browser.new_context()
    tab = context.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.sink.url)
    tab.wait_for_selector("#offline", state="hidden")
    context.close()

    assert len(asked) >= 4
    assert [url for url in asked if not url.startswith((page.sink.address, "data:"))] == []


def test_left_of_the_slider_is_the_input_and_right_of_it_the_result(tab, page):
    left, right = [0.02, 0.25], [0.98, 0.25]
    with frozen(page):
        result = tab.evaluate(PIXEL, left), tab.evaluate(PIXEL, right)
        tab.click("[data-view=wipe]")
        tab.wait_for_selector("#divider", state="visible")

        assert sees(tab, result[0], tab.evaluate(PIXEL, left))
        assert tab.evaluate(PIXEL, right) == result[1]


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_the_slider_moves_at_once_and_for_the_recording_too(tab, page, how):
    tab.click("[data-view=wipe]")
    tab.wait_for_selector("#divider", state="visible")
    page.do("position", 0.5)
    until(lambda: tab.get_attribute("#divider", "aria-valuenow") == "50")
    with frozen(page):
        before = tab.evaluate(PIXEL, [0.3, 0.25])
        if how == "mouse":
            box = tab.locator("#picture").bounding_box()
            tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            tab.mouse.down()
            tab.mouse.move(box["x"] + box["width"] / 5, box["y"] + box["height"] / 2, steps=5)
            tab.mouse.up()
        else:
            tab.focus("#divider")
            for _ in range(15):
                tab.keyboard.press("ArrowLeft")
        until(lambda: tab.get_attribute("#divider", "aria-valuenow") == "20")

        until(lambda: controls(page)["position"] == pytest.approx(0.2, abs=0.01))
        until(lambda: sees(tab, before, tab.evaluate(PIXEL, [0.3, 0.25])))


@pytest.mark.parametrize("view", ["side-by-side", "wipe", "blend", "input", "result"])
def test_a_view_button_changes_the_view_for_all(tab, page, view):
    with tab.expect_request("**/control") as request:
        tab.click(f"[data-view={view}]")

    assert request.value.post_data_json == {"action": "view", "value": view}
    tab.wait_for_selector(f"[data-view={view}][aria-pressed=true]")
    assert controls(page)["view"] == view


@pytest.mark.parametrize(("action", "field"), [("mirror", "mirror"), ("freeze", "frozen")])
def test_a_switch_is_switched_on_and_off(tab, page, action, field):
    for is_on in (True, False):
        tab.click(f"[data-action={action}]")
        tab.wait_for_selector(f"[data-action={action}][aria-pressed={str(is_on).lower()}]")
        assert controls(page)[field] is is_on


def test_recording_is_shown_and_leaves_a_file(tab, page):
    tab.click("[data-action=record]")
    tab.wait_for_selector("#recording", state="visible")
    tab.wait_for_timeout(300)
    tab.click("[data-action=record]")
    tab.wait_for_selector("#recording", state="hidden")

    assert re.fullmatch(r"recorded .*\.mp4", tab.inner_text("#message"))


def test_a_snapshot_says_where_it_is(tab):
    tab.click("[data-action=snapshot]")

    until(lambda: re.fullmatch(r"saved .*\.png", tab.inner_text("#message")))


def test_a_key_does_what_it_does_in_the_window(tab, page):
    tab.keyboard.press("v")

    until(lambda: controls(page)["view"] == "side-by-side")


@pytest.mark.parametrize(("key", "action", "times"), [("m", "mirror", 1), ("[", "position", 4)])
def test_a_key_that_is_held_moves_the_divider_and_does_nothing_else_twice(tab, page, key, action, times):
    sent: list[str] = []
    tab.on(
        "request", note := lambda request: request.method == "POST" and sent.append(request.post_data_json["action"])
    )
    for _ in range(4):
        tab.keyboard.down(key)  # from the second time on, as a key repeats
    tab.keyboard.up(key)
    with tab.expect_request(lambda request: request.method == "POST" and request.post_data_json["action"] == "view"):
        tab.keyboard.press("v")
    tab.remove_listener("request", note)

    assert sent == [action] * times + ["view"]


def test_what_the_run_has_not_is_not_offered(tab):
    assert tab.is_hidden("[data-action=next-engine]")
    assert tab.is_hidden("#style-choice")


def test_the_frame_rate_shown_is_the_one_counted(tab, page):
    def shown_and_counted() -> tuple[float, float]:
        before = page.pipeline.status()
        tab.wait_for_timeout(3000)
        after = page.pipeline.status()
        return float(tab.inner_text("#fps")), (after.results - before.results) / (after.elapsed - before.elapsed)

    # Another program on this machine may change the rate in between.
    until(lambda: math.isclose(*shown_and_counted(), rel_tol=0.2), seconds=30)


def test_the_figures_are_those_of_the_status(tab, page):
    assert float(tab.inner_text("#latency").partition("/")[0]) > 0
    assert tab.inner_text("#sources li").split("\n") == ["test-pattern", "live"]
    until(lambda: tab.inner_text("#viewers") == str(page.report()["page"]["clients"]))


@pytest.mark.parametrize(("width", "height", "scheme"), [(390, 844, "light"), (320, 568, "dark"), (844, 390, "dark")])
def test_a_phone_shows_all_without_scrolling_sideways(browser, page, width, height, scheme):
    phone = {"viewport": {"width": width, "height": height}, "is_mobile": True, "has_touch": True}
    with opened(browser, page, color_scheme=scheme, **phone) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("#picture").bounding_box()["width"] > 0.5 * min(width, height)
        for button in tab.locator("button:visible").all():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["height"] >= 40


def test_a_finger_moves_the_slider(browser, page):
    page.do("view", "wipe")
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with opened(browser, page, **phone) as tab:
        tab.wait_for_selector("#divider", state="visible")
        box = tab.locator("#picture").bounding_box()
        tab.touchscreen.tap(box["x"] + box["width"] * 0.75, box["y"] + 20)

        until(lambda: controls(page)["position"] == pytest.approx(0.75, abs=0.02))


def test_the_picture_comes_by_webrtc_where_that_is_asked_for(browser, tmp_path):
    pytest.importorskip("aiortc", reason="pip install 'i2i[webrtc]'")
    with served(tmp_path) as page, opened(browser, page) as tab:
        tab.click("[data-view=result]")
        with frozen(page):
            jpeg = tab.evaluate(PIXEL, [0.9, 0.25])
            tab.click("#webrtc")
            tab.wait_for_selector("#webrtc[aria-pressed=true]", timeout=15000)
            until(lambda: tab.evaluate(PIXEL, [0.9, 0.25]) == pytest.approx(jpeg, abs=30))
        first = tab.evaluate(PICTURE)
        until(lambda: tab.evaluate(PICTURE) != first)
        assert tab.is_hidden("#offline")

        tab.click("[data-view=side-by-side]")
        until(lambda: tab.evaluate('document.getElementById("picture").width') == 640)
        tab.click("#webrtc")
        tab.wait_for_selector("#webrtc[aria-pressed=false]")
        first = tab.evaluate(PICTURE)
        until(lambda: tab.evaluate(PICTURE) != first)


def test_the_token_leaves_the_address_bar_and_the_cookie_stays(browser, tmp_path):
    with served(tmp_path, token="a-token-of-sixteen-or-more") as page, opened(browser, page) as tab:
        assert "token" not in tab.url
        tab.reload()
        tab.wait_for_selector("#offline", state="hidden")
        assert tab.context.request.get(f"{page.sink.address}status.json").status == 200


def test_a_run_with_a_new_token_says_that_its_address_is_needed(browser, tmp_path):
    with served(tmp_path, names=["studio"]) as page:
        lost = opened(browser, page)
        tab = lost.__enter__()
        port = page.port
    with served(tmp_path, names=["studio"], port=port):
        said = "The run was started again with a new token: open the address that i2i-run printed now"
        until(lambda: tab.inner_text("#offline-text") == said)
    lost.__exit__()


def test_while_a_source_is_lost_its_notice_is_shown_in_any_view(browser, tmp_path):
    class Lost(PatternSource):
        def __iter__(self):
            for frame in super().__iter__():
                if is_lost.is_set():
                    break
                yield frame
            self.state = SourceState.RECONNECTING
            found.wait(30)

    is_lost, found = threading.Event(), threading.Event()
    try:
        with served(tmp_path, source=Lost(SIZE, 30)) as page, opened(browser, page) as tab:
            for view in ("wipe", "side-by-side"):
                tab.click(f"[data-view={view}]")
                tab.wait_for_selector(f"[data-view={view}][aria-pressed=true]")
                tab.wait_for_selector("#tag-before", state="visible")
            is_lost.set()

            # One picture, with the words across it: nothing is left and right of a divider.
            tab.wait_for_selector("#tag-before", state="hidden")
            assert tab.inner_text("#troubles li").startswith("test-pattern: reconnecting")
            until(lambda: tab.inner_text("#state") == "reconnecting")
            found.set()
    finally:
        found.set()


def test_the_page_recovers_by_itself_when_the_run_is_started_again(browser, tmp_path):
    with served(tmp_path) as page:
        lost = opened(browser, page)
        tab = lost.__enter__()
        port = page.port
    tab.wait_for_selector("#offline", state="visible")
    assert tab.inner_text("#offline-text") == "Connection lost, retrying …"
    with served(tmp_path, port=port):
        tab.wait_for_selector("#offline", state="hidden")
        first = tab.evaluate(PICTURE)
        until(lambda: tab.evaluate(PICTURE) != first)
    lost.__exit__()
