"""The report in a browser: no error, nothing loaded, every section opened, as wide as a phone, light and dark."""

import shutil

import pytest
from nasty import NASTY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 }); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll('h1, h3, p, dt, dd, a, figcaption, .right, .wrong')].map(e => {
    const ink = light(getComputedStyle(e).color);
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05) }).reduce((a, b) => Math.min(a, b)) }"""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_works(browser, first, width, scheme, tmp_path):
    page, said = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(first[0].as_uri())
    assert NASTY[0] not in page.title() and page.title() != "taken"
    for summary in page.query_selector_all("details:not([open]) > summary"):  # those that are closed now
        summary.focus()
        page.keyboard.press("Enter")  # not every reader has a mouse
    assert page.locator("details:not([open])").count() == 0 and page.locator("details").count() >= 5
    for link in page.locator("nav a").all():
        link.click()
        assert page.locator(link.get_attribute("href")).is_visible()
    images = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert images and all(images)
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    assert page.evaluate(CONTRAST) >= 4.5
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert len(page.screenshot(path=tmp_path / "page.png", full_page=True)) > 20_000
    assert not said
    page.close()
