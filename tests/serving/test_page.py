"""The server's page as a person uses it, in a browser."""

import csv
import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import COMMAND, Page, open_browser
from monitored import make_params, make_windows
from running import RunningServer, run_server
from tiny_text_bundle import LABELS, write_bundle

from evergreen.monitoring.staleness import Reason, judge
from evergreen.serving.security import create_key

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMMAND is None, reason="NO BROWSER: the page is untested; apt-get install chromium"),
]

KEY, ENTRY = create_key("page")
CARD = """---
library_name: onnx
---

# Model card: text
Reads **short** texts, `run 1`, see [the paper](https://example.org/paper), not [this](javascript:alert(1)).
<img src=x onerror="window.hurt = 1"> ![picture](https://example.org/picture.png)

## Figures
| model | accuracy |
| --- | --- |
| this *bundle* | 0.85 |
| either \\| or | 0.75 |

- one
- two, over
  two lines
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    bundle = write_bundle(folder / "models" / "text")
    (folder / "models" / "card.md").write_text(CARD)
    with run_server(folder, bundle, built / "bundle") as running:
        yield running


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser; in the end, nothing may have gone wrong in it, nor been asked of another machine."""
    with open_browser(tmp_path / "profile") as page:
        yield page
        # What the page expects: no report yet, or a key asked for.
        expected = re.compile(r"status of (404 .*/v1/monitoring/verdict\.json|401 )")
        assert [complaint for complaint in page.complaints if not expected.search(complaint)] == []
        hosts = {url.split("/")[2] for url in page.requests if url.startswith("http")}
        assert hosts == {page.run("location.host")}


def click_button(page: Page, parent: str, name: str) -> None:
    """Click the button of this name."""
    page.wait(
        f"(() => {{ const b = [...document.querySelectorAll({json.dumps(parent + ' button')})]"
        f".find((one) => one.innerText === {json.dumps(name)}); b?.setAttribute('data-test', 'this'); return !!b; }})()"
    )
    page.click("[data-test=this]")
    page.run("document.querySelector('[data-test]')?.removeAttribute('data-test')")


def test_keyboard_alone_classifies_and_gives_feedback(server: RunningServer, page: Page) -> None:
    page.open(server.url)
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    page.tab_to("#text-input")
    page.type("the word7 flight")
    page.tab_to("#text button")
    page.press("Enter")
    page.wait_for_text("#text .feedback", "Prediction")
    expected = server.classify("the word7 flight")
    assert page.read("#text .verdict") == expected["label"]
    shown = page.run(
        "[...document.querySelectorAll('#text tr')].map((row) => [row.cells[0].innerText, row.cells[1].innerText])"
    )
    assert shown == [[name, f"{100 * value:.1f} %"] for name, value in expected["probabilities"].items()]
    widths = page.run("[...document.querySelectorAll('#text .bar')].map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * value for value in expected["probabilities"].values()], abs=0.01)

    wrong = next(label for label in LABELS if label != expected["label"])
    page.tab_to(f"#text .feedback button:nth-child({LABELS.index(wrong) + 1})")
    page.press(" ")
    page.wait_for_text("#text .feedback", f"Stored: {wrong}")
    prediction_id = page.read("#text .id").split()[-1]
    (row,) = [row for row in server.read_log() if row.prediction.id == prediction_id]
    assert row.feedback is not None
    assert (row.feedback.label, row.feedback.source) == (wrong, "page")


def test_refusals_are_shown_where_they_belong(server: RunningServer, page: Page) -> None:
    page.open(server.url)
    page.run("document.querySelector('#text-input').value = 'word '.repeat(9000)")
    page.click("#text [type=submit]")
    page.wait_for_text("#text [role=alert]", "20000")
    page.complaints = [text for text in page.complaints if "422" not in text]


@pytest.mark.parametrize("way", ["drop", "choose"])
def test_video_gets_verdict_timeline_and_heat_map(server: RunningServer, page: Page, tmp_path: Path, way: str) -> None:
    from footage import add_intruder, draw_scene, write_video

    images = draw_scene(40)
    file = write_video(tmp_path / "street.mp4", add_intruder(images, 16, 30) if way == "drop" else images)
    page.open(server.url)
    if way == "drop":
        page.drop("#video .drop", file)
    else:
        page.choose("#video-input", file)
    page.click("#video [type=submit]")
    page.wait_for_text("#video .feedback", "Prediction", 90)
    (job, *_) = server.client.get("/v1/videos").json()
    summary = job["summary"]
    assert page.read("#video .status") == "Done: street.mp4"
    assert page.read("#video .verdict").startswith(f"{summary['answer']}: ")
    assert f"{summary['score']:.2f}" in page.read("#video .result")
    assert page.run("document.querySelectorAll('#video .result .buttons button').length") == len(summary["ranges"])
    page.wait("document.querySelector('#video img').naturalWidth > 0")
    page.wait("document.querySelector('#video video').readyState >= 2")
    assert page.run("document.querySelector('#video video').duration") == pytest.approx(4, abs=0.3)
    for selector in ("#video img", "#video video"):
        assert page.run(f"document.querySelector('{selector}').src").startswith("blob:")

    page.open(server.url)  # a reload finds it again
    page.wait_for_text("#video .status", "Done: street.mp4")
    click_button(page, "#video .feedback", "1" if not summary["answer"] else "1 (right)")
    page.wait_for_text("#video .feedback", "Stored: 1")


def test_video_that_is_none_fails_with_its_reason(server: RunningServer, page: Page, tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(b"no video" * 100)
    page.open(server.url)
    page.choose("#video-input", tmp_path / "noise.mp4")
    page.click("#video [type=submit]")
    page.wait("document.querySelector('#video [role=alert]').innerText.length > 9", 60)
    (job, *_) = server.client.get("/v1/videos").json()
    assert page.read("#video [role=alert]") == job["detail"]


def test_job_is_canceled(server: RunningServer, page: Page, tmp_path: Path) -> None:
    from footage import draw_scene, write_video

    page.open(server.url)
    page.choose("#video-input", write_video(tmp_path / "long.mp4", draw_scene(1500)))
    page.click("#video [type=submit]")
    page.wait_for_text("#video .status", "long.mp4")
    page.wait("sessionStorage.getItem('evergreen-job /v1/videos')")
    page.click("#video .cancel")
    page.wait_for_text("#video .status", "Canceled")
    (job, *_) = server.client.get("/v1/videos").json()
    assert job["status"] == "canceled"


def test_batch_is_classified_and_downloaded(server: RunningServer, page: Page, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text\nthe good flight\nthe bad flight\n")
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.open(server.url)
    page.choose("#batch-input", tmp_path / "texts.csv")
    page.click("#batch [type=submit]")
    page.wait_for_text("#batch .result", "2 of 2 rows", 60)
    click_button(page, "#batch", "Download predictions.csv")
    result = tmp_path / "predictions.csv"
    end = time.monotonic() + 10
    while not result.exists() and time.monotonic() < end:
        time.sleep(0.1)
    with result.open() as rows:
        assert [row["text"] for row in csv.DictReader(rows)] == ["the good flight", "the bad flight"]


def test_card_is_shown_as_text_only(server: RunningServer, page: Page) -> None:
    page.open(server.url)
    page.wait_for_text("#models", "text")
    page.run("document.querySelector('#models details').open = true")
    card = page.read("#models .card")
    assert "library_name" not in card
    assert '<img src=x onerror="window.hurt = 1">' in card
    assert page.run("document.querySelectorAll('#models .card img').length + Number(window.hurt ?? 0)") == 0
    links = page.run("[...document.querySelectorAll('#models .card a')].map((link) => link.href)")
    assert links == ["https://example.org/paper"]
    assert page.run("[...document.querySelectorAll('#models .card :is(h4, h5)')].map((h) => h.localName)") == [
        "h4",
        "h5",
    ]
    assert page.run("[...document.querySelectorAll('#models .card td')].map((cell) => cell.innerText)") == [
        "this bundle",
        "0.85",
        "either | or",
        "0.75",
    ]
    assert page.run("[...document.querySelectorAll('#models .card li')].map((item) => item.innerText)") == [
        "one",
        "two, over two lines",
    ]
    assert page.run("document.querySelector('#models code[title]').title") == "f" * 32


def test_traffic_shows_what_metrics_say(server: RunningServer, page: Page) -> None:
    server.classify()
    page.open(server.url)
    page.wait_for_text("#traffic", "can be written")
    shown = page.run(
        "Object.fromEntries([...document.querySelectorAll('#traffic dt')].map((t) => [t.innerText, t.nextSibling.innerText]))"
    )
    assert (shown["Workers"], shown["Texts waiting"]) == ("2", "0")
    assert re.fullmatch(r"about [\d.]+ ms \(.*\)", shown["Median latency"])
    page.wait_for_text("#traffic", "a second", 10)
    median = page.run("import('/page/traffic.js').then((m) => m.estimateMedian([[0.1, 2], [0.2, 6], [Infinity, 8]]))")
    assert median == pytest.approx(0.15)
    parsed = page.run(r"""import('/page/traffic.js').then((m) => m.parse('a{b="c\\"d,e"} 2.5\n# HELP a\nf 1e3\n'))""")
    assert parsed == [{"name": "a", "labels": {"b": 'c"d,e'}, "value": 2.5}, {"name": "f", "labels": {}, "value": 1000}]


def test_latest_report_is_shown(server: RunningServer, page: Page) -> None:
    page.open(server.url)
    page.wait_for_text("#monitoring", "No report yet")
    reports = server.folder / "reports"
    reports.mkdir()
    verdict = judge([], make_windows(10), make_params(), [])
    reason = Reason(status="alarm", message="<b>Texts</b> differ.", signal="texts", title="Texts", rule="company")
    verdict.model_copy(update={"reasons": [reason]}).save(reports / "verdict.json")
    try:
        page.open(server.url)
        page.wait_for_text("#monitoring", "Watch: too little traffic to judge.")
        assert "(2026-04-24 until 2026-05-01)" in page.read("#monitoring")
        items = page.run("[...document.querySelectorAll('#monitoring li')].map((item) => item.innerText)")
        assert items == ["<b>Texts</b> differ."]
        links = page.run("[...document.querySelectorAll('#monitoring a')].map((link) => link.pathname)")
        assert links == ["/v1/monitoring/report.html", "/v1/monitoring/drift.html"]
    finally:
        (reports / "verdict.json").unlink()
        reports.rmdir()


def test_wrong_key_is_asked_for_again(tmp_path: Path, page: Page) -> None:
    bundle = write_bundle(tmp_path / "text")
    with run_server(tmp_path / "server", bundle, EVERGREEN_API_KEYS=ENTRY) as server:
        page.open(server.url)
        page.wait("document.querySelector('dialog').open")
        assert "needs an API key" in page.read("#key-reason")
        page.press("Escape")
        page.wait_for_text("#models [role=alert]", "API key is needed")
        page.run("document.querySelector('#text-input').focus()")
        page.type("the flight")
        page.press("Enter", modifiers=2)
        page.wait("document.querySelector('dialog').open")
        page.type("wrong")
        page.press("Enter")
        page.wait_for_text("#key-reason", "does not accept")
        assert page.run("document.activeElement.id") == "key-input"
        page.type(KEY)
        page.press("Enter")
        page.wait_for_text("#text .feedback", "Prediction")
        page.open(server.url)  # this tab keeps the key
        page.wait_for_text("#models", "Data hash")
        page.wait_for_text("#video .status", "no video model")
        assert page.run("localStorage.length + document.cookie.length") == 0


def test_page_is_accessible(server: RunningServer, page: Page) -> None:
    page.open(server.url)
    page.wait_for_text("#models", "text")
    page.run("document.querySelector('#text-input').value = 'a flight'")
    page.click("#text [type=submit]")
    page.wait_for_text("#text .feedback", "Prediction")
    page.run("document.querySelectorAll('details').forEach((one) => one.open = true)")
    controls = page.list_controls()
    assert {"button", "textbox", "checkbox", "region"} <= {role for role, _ in controls}
    assert [role for role, name in controls if not name.strip()] == []
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("document.title") == "Evergreen"
    levels = page.run(
        "[...document.querySelectorAll(':is(h1, h2, h3, h4, h5, h6):not(dialog *)')].map((h) => +h.localName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = page.run("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert find_low_contrast(page) == []


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_is_wider_than_the_window(server: RunningServer, page: Page, width: int) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    page.open(server.url)
    page.wait_for_text("#models", "text")
    page.run("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert page.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [320, 1280])
def test_a_model_of_many_labels_fits_on_the_page(tmp_path: Path, page: Page, width: int) -> None:
    names = ["一个名字很长的类别{:03}", "a_name_of_sixty_characters_without_a_blank_in_it_for_a_class{:03}"]
    labels = [names[i % 2].format(i) for i in range(150)]
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    with run_server(tmp_path / "server", write_bundle(tmp_path / "text", labels=labels)) as server:
        page.open(server.url)
        page.wait_for_text("#models", "150 labels")
        page.run("document.querySelector('#text-input').value = 'a good flight'")
        page.click("#text [type=submit]")
        page.wait_for_text("#text .feedback", "Prediction")
        answer = server.client.post("/v1/classify", json={"text": "a good flight"}).json()["predictions"][0]
        rows = page.run(
            "[...document.querySelectorAll('#text .bars tr')].map((row) => row.innerText.replaceAll('\\n', ' ').split('\t'))"
        )
        assert len(rows) == 12
        assert rows[0][0].strip() == answer["label"]
        assert rows[-1][0].strip() == "139 others"
        figures = [float(row[1].split("%")[0]) for row in rows]
        assert sum(figures) == pytest.approx(100, abs=0.6)
        assert page.run("document.querySelectorAll('#text .feedback button').length") == 1
        assert page.run("document.querySelector('#text select').value") == answer["label"]
        page.run(f"document.querySelector('#text select').value = {json.dumps(labels[7])}")
        click_button(page, "#text .feedback", "Give")
        page.wait_for_text("#text .feedback", f"Stored: {labels[7]}")
        assert [name for _, name in page.list_controls() if not name.strip()] == []
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("document.querySelector('#text').offsetHeight") < 2000


def find_low_contrast(page: Page) -> list[Any]:
    """Texts whose contrast with the background is below 4.5:1, as WCAG 2 computes it."""
    colors = page.run("""(() => {
      const solid = (element) => {
        for (let at = element; at; at = at.parentElement) {
          const color = getComputedStyle(at).backgroundColor;
          if (color !== 'rgba(0, 0, 0, 0)' && color !== 'transparent') return color;
        }
        return getComputedStyle(document.body).backgroundColor;
      };
      return [...document.querySelectorAll('main *, header *')]
        .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .filter((one) => one.checkVisibility())
        .map((one) => [one.textContent.trim().slice(0, 40), getComputedStyle(one).color, solid(one)]);
    })()""")
    return [item for item in colors if measure_contrast(item[1], item[2]) < 4.5]


def measure_contrast(first: str, second: str) -> float:
    """Contrast of two CSS colors, 1 to 21."""

    def measure_luminance(color: str) -> float:
        values = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((measure_luminance(first), measure_luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)
