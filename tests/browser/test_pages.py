"""The page of `mrt view` in a real browser without a window: `make test-browser`. Screenshots stay in runs/browser."""

import shutil
from pathlib import Path

import pytest
from test_view import HOSTILE, measured, rollout, stored  # noqa: F401

from mrt_plugin.analysis import view


playwright = pytest.importorskip("playwright.sync_api")
SHOTS = Path(__file__).parents[2] / "runs" / "browser"
FIRST = "Try 3.\n\n3 + 4 = 7.\n\nNo.\n\n"
SECOND = "Wait, try 5.\n\n5 + 4 = 9.\n\nYes.\n\n"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens the page of runs; what its console says, and what it fetches, fails the test."""
    said = []

    def opened(*folders, **settings):
        path = tmp_path / "view.html"
        path.write_text(view.page(view.load(folders)), encoding="utf-8")
        tab = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | settings)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: request.url.startswith("file:") or said.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]")
        return tab

    yield opened
    assert said == []


@pytest.fixture
def two(tmp_path):
    """Runs in which the order of the problems differs by what they are sorted by."""
    easy = {"problem": "easy", "thinking": FIRST + SECOND}
    hard = {"problem": "hard", "thinking": FIRST + SECOND}
    slow = [
        rollout(**easy, success=[0.0, 0.9, 0.9], ends=[0, 10, 80]),
        rollout(**hard, success=[0.0, 0.5, 0.25], ends=[0, 30, 60], right=False),
    ]
    fast = [
        rollout(**easy, success=[0.0, 0.5, 1.0], ends=[0, 10, 20]),
        rollout(**hard, success=[0.0, 1.0, 1.0], ends=[0, 10, 20]),
    ]
    return stored(tmp_path / "slow", slow), stored(tmp_path / "fast", fast)


def problems(tab):
    return [text.strip() for text in tab.locator("#problems .ask").all_text_contents()]


def test_it_opens_and_sorts(open_page, two):
    tab = open_page(*two)
    assert tab.title() == "What thinking earns: slow, fast"
    assert problems(tab) == ["Find hard.", "Find easy."]  # by regret
    tab.select_option("#by", "idle")
    assert problems(tab) == ["Find easy.", "Find hard."]
    tab.select_option("#by", "lost")
    assert problems(tab) == ["Find hard.", "Find easy."]
    tab.select_option("#of", label="fast less slow")
    assert problems(tab) == ["Find easy.", "Find hard."]
    tab.select_option("#by", "order")
    assert problems(tab) == ["Find easy.", "Find hard."]
    assert "0.5" in tab.locator("#overview").inner_text()


def test_a_problem_opens_with_both_runs_beside_each_other(open_page, two):
    tab = open_page(*two)
    assert tab.locator(".text").count() == 0  # nothing is drawn before it is opened
    tab.locator("summary.problem").first.click()
    tab.wait_for_selector(".rollout[open] .text")
    columns = tab.locator(".columns > section")
    assert columns.locator("h2").all_inner_texts() == ["slow", "fast"]
    left, right = (columns.nth(i).bounding_box() for i in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    told = columns.first.locator(".about b").all_inner_texts()
    assert told == ["+0.50 gain", "−0.25 loss"]
    assert columns.nth(1).locator(".about b").all_inner_texts() == ["+1.00 gain", "±0.00 idle"]
    assert "Wait, try 5.\n\n5 + 4 = 9.\n\nYes." in columns.first.inner_text()
    tab.locator("summary.problem").first.click()
    tab.wait_for_selector(".text", state="detached")


def test_a_budget_cuts_the_text_and_says_what_j_is_there(open_page, two):
    tab = open_page(*two)
    tab.locator("summary.problem").first.click()
    tab.wait_for_selector(".rollout[open] .text")
    tab.select_option("#budget", label="50 tokens")
    tab.wait_for_selector(".cut")
    assert tab.locator(".cut").all_inner_texts() == ["50 tokens: made to answer after 1 episode, J 0.50"]
    assert "Yes." in tab.locator(".behind").first.inner_text()
    assert tab.locator("#overview th").nth(3).inner_text() == "regret at 50"


def test_credit_is_painted_on_demand(open_page, two):
    tab = open_page(*two)
    tab.locator("summary.problem").first.click()
    tab.wait_for_selector(".rollout[open] .text")
    assert tab.locator("mark").count() == 0
    tab.check("[value=credit]")
    assert tab.locator("mark").count() > 3
    assert tab.locator("mark").first.get_attribute("title").startswith("+0.")
    tab.check("[value=progress]")
    assert tab.locator("mark").count() == 0


def test_the_keyboard_is_enough(open_page, two):
    tab = open_page(*two)
    tab.locator("#by").focus()
    tab.keyboard.press("ArrowDown")
    assert problems(tab) == ["Find easy.", "Find hard."]
    while not tab.evaluate("document.activeElement.matches('summary.problem')"):
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".rollout[open] .text")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.parentElement.className") == "rollout"
    tab.keyboard.press("Space")
    assert not tab.evaluate("document.activeElement.parentElement.open")


def test_a_screen_reader_is_told_all(open_page, two):
    tab = open_page(*two)
    tree = tab.locator("body").aria_snapshot()
    for said in (
        'heading "What thinking earns"',
        "slow: regret 0.",
        "0 of 1 right",
        'combobox "Sort by',
        "list:",
        "table:",
    ):
        assert said in tree, said
    tab.locator("summary.problem").first.click()
    tab.wait_for_selector(".rollout[open] .text")
    assert "−0.25 loss episode 2: J 0.25 30 tokens" in " ".join(tab.locator(".text").first.aria_snapshot().split())


def test_hostile_texts_are_shown_as_they_are(open_page, measured):  # noqa: F811
    tab = open_page(measured)
    assert HOSTILE.strip() in " ".join(tab.locator(".ask").all_text_contents())
    for summary in tab.locator("summary.problem").all():
        summary.click()
    tab.wait_for_selector(".rollout[open] .text >> nth=1")
    tab.evaluate("document.querySelectorAll('.rollout').forEach(one => { one.open = true })")
    tab.wait_for_selector(".rollout[open] .text >> nth=3")
    assert tab.locator("text=alert(1)").count() >= 2
    assert "unknown" in tab.locator("#problems").inner_text()


def test_a_link_names_a_problem(open_page, two):
    tab = open_page(*two)
    tab.goto(tab.url + "#problem-1")
    tab.reload()
    tab.wait_for_selector("#problem-1[open] .text")


CONTRAST = """() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  const luminance = colors => {  // of colours over each other, as WCAG has it
    colors.forEach(color => { paint.fillStyle = color; paint.fillRect(0, 0, 1, 1) })
    const linear = [...paint.getImageData(0, 0, 1, 1).data].map(value => value / 255)
      .map(value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
    return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2]
  }
  const page = getComputedStyle(document.body).backgroundColor
  return Math.min(...[...document.querySelectorAll("p, label, small, mark, .about, .full")].map(node => {
    const { color, backgroundColor } = getComputedStyle(node)
    const [text, behind] = [[page, backgroundColor, color], [page, backgroundColor]].map(luminance)
    return (Math.max(behind, text) + .05) / (Math.min(behind, text) + .05)
  }))
}"""
"""The least contrast of a text with what stands behind it."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_and_is_readable(open_page, two, scheme, width):
    tab = open_page(*two, color_scheme=scheme, viewport={"width": width, "height": 900})
    tab.locator("summary.problem").first.click()
    tab.wait_for_selector(".rollout[open] .text")
    tab.check("[value=credit]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(CONTRAST) >= 4.5
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SHOTS / f"view-{scheme}-{width}.png", full_page=True)


def test_many_long_rollouts_do_not_freeze_it(open_page, tmp_path):
    paragraphs = "".join(f"{'Wait, ' if i % 3 == 0 else ''}step {i} of many words it takes\n\n" for i in range(900))
    steps = 50
    success, ends = [i / steps for i in range(steps + 1)], [8000 * i // steps for i in range(steps + 1)]
    rows = [
        rollout(paragraphs, success, ends, problem=f"p{p}", stream=stream) for p in range(125) for stream in range(4)
    ]
    run = stored(tmp_path / "long", rows, max_completion_length=8192, mrt_episodes=50)
    tab = open_page(run)
    assert problems(tab)[0] == "Find p0."
    assert tab.evaluate("document.querySelectorAll('*').length") < 5000
    tab.locator("summary.problem").first.click()
    tab.wait_for_selector(".rollout[open] .text")
    assert tab.locator(".rollout[open] .about b").count() == steps
    tab.screenshot(path=SHOTS / "view-long.png")
