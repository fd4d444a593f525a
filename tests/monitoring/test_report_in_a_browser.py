"""The report in a real browser: it shows what it should, on a telephone too, and nothing in it runs or loads."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request as Asked
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mlguard import audit_report
from tests.browser import CHROMIUM, Page, browsing
from tests.monitoring.audit_pages import NOW, log_of, request
from tests.monitoring.audit_week import week, write
from tests.monitoring.test_audit_report import everywhere
from tests.servers import serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

_HOSTILE = "</title></svg></style><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
# Of each plot: its box, and the boxes of what is drawn in it.
_PLOTS = """[...document.querySelectorAll('svg.plot')].map(plot => {
  const box = e => { const b = e.getBoundingClientRect(); return [b.width, b.height] };
  return [box(plot), [...plot.querySelectorAll('path, circle')].map(box)];
})"""
_CONTRAST = """['body', 'h1', '.soft', '.eyebrow', 'figcaption', 'thead th', '.name', 'summary'].map(selector => {
  const light = colour => {
    const part = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 };
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const text = light(getComputedStyle(document.querySelector(selector)).color);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return (Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05);
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser, and where the reports are served: of a week, of hostile texts, of nothing."""
    folder = tmp_path_factory.mktemp("reports")
    write(folder / "week", week(density=0.1))
    log_of(folder / "hostile.jsonl", everywhere(_HOSTILE))
    log_of(folder / "empty.jsonl", [])
    issuer = "https://login.example.com/realms/production/"
    token = {"method": "jwt", "issuer": issuer, "id": "service-account-of-payments"}
    log_of(folder / "tokens.jsonl", [request(principal=token), request()])

    async def report(asked: Asked) -> Response:
        return HTMLResponse(audit_report(folder / asked.path_params["log"], now=NOW))

    app = Starlette(routes=[Route("/{log}", report)])
    with serving(app) as url, browsing({}) as browser:
        yield _Reports(browser, url)


class _Reports:
    """Opens reports in a browser."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url

    def open(self, log: str, *, width: int = 1100, scheme: str = "light", media: str = "screen") -> Page:
        """Open a report in a window of this width, with no error from before."""
        self.page.emulate(width=width, height=900, scheme=scheme, media=media)
        self.page.errors.clear()
        self.page.strays.clear()
        self.page.open("about:blank")
        self.page.open(f"{self._url}/{log}")
        self.page.text("#reading h2")
        return self.page


def test_plots_are_drawn(page: _Reports) -> None:
    """Each has a size, and in it is something that has a size; no error, no request, and the policy holds the style."""
    shown = page.open("week")
    plots = shown.evaluate(_PLOTS)
    assert len(plots) == 10
    for (width, height), shapes in plots:
        assert width > 500
        assert height > 40
        assert any(max(shape) > 3 for shape in shapes)
    assert shown.evaluate("getComputedStyle(document.body).maxWidth") == "960px"
    assert shown.text("h1") == "What happened"
    assert (shown.errors, shown.strays) == ([], [])


def test_long_issuers_leave_room_for_numbers(page: _Reports) -> None:
    """The table of principals fits into a window of a desk, whoever vouches for them."""
    shown = page.open("tokens.jsonl")
    wide = "[...document.querySelectorAll('#callers > .scroll')].map(e => [e.scrollWidth, e.clientWidth])"
    ((content, window),) = shown.evaluate(wide)
    assert content == window > 500


@pytest.mark.parametrize("log", ["week", "hostile.jsonl", "empty.jsonl"])
def test_a_telephone(page: _Reports, log: str) -> None:
    """At 360 pixels nothing has to be scrolled to the side, whatever the names are, with all tables open."""
    shown = page.open(log, width=360)
    shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert shown.evaluate("document.documentElement.scrollWidth") <= shown.evaluate("innerWidth") <= 360
    assert (shown.errors, shown.strays) == ([], [])


def test_hostile_texts_are_shown(page: _Reports) -> None:
    """What callers wrote is text: nothing of it is an element, and nothing of it has run."""
    shown = page.open("hostile.jsonl")
    assert shown.evaluate("document.querySelectorAll('script, img, iframe, object, link, form, [style]').length") == 0
    assert shown.evaluate("document.title") == "What happened"
    assert "<script>document.title='run'</script>" in shown.text("#callers > .scroll tbody th")
    assert (shown.errors, shown.strays) == ([], [])


def test_what_the_policy_stops(page: _Reports) -> None:
    """If an element came in all the same, its script, its style and its picture would be stopped."""
    shown = page.open("empty.jsonl")
    shown.evaluate(
        'document.body.insertAdjacentHTML(\'beforeend\', \'<p id=in style="color:red" onclick="document.title=1">x</p>'
        "<img src=\"https://example.org/x.png\">'); document.getElementById('in').click()"
    )
    shown.wait_for_errors(2)
    assert shown.evaluate("document.title") == "What happened"
    assert shown.evaluate("getComputedStyle(document.getElementById('in')).color") != "rgb(255, 0, 0)"
    assert shown.strays == []


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_texts_can_be_read(page: _Reports, scheme: str, *, is_dark: bool) -> None:
    """In light and in dark, each kind of text has a contrast of at least 4.5 to 1 (WCAG 2.2, AA)."""
    shown = page.open("week", scheme=scheme)
    assert min(shown.evaluate(_CONTRAST)) >= 4.5
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(20, 23, 27)") is is_dark


def test_on_paper(page: _Reports) -> None:
    """A print is black on white also in the dark, without links; what is folded is left out, what is open is not."""
    shown = page.open("week", scheme="dark", media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert shown.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert shown.evaluate("getComputedStyle(document.querySelector('details:not([open])')).display") == "none"
    assert shown.evaluate("getComputedStyle(document.querySelector('#events details[open]')).display") == "block"


def test_a_pointer_finds_numbers(page: _Reports) -> None:
    """Each column of a plot says what it shows, with the time in UTC."""
    shown = page.open("week")
    told = shown.evaluate("document.querySelector('#callers .hit title').textContent")
    assert "UTC" in told
    assert "batch-nightly" in shown.evaluate(
        "[...document.querySelectorAll('#callers .hit title')].map(one => one.textContent).join()"
    )
