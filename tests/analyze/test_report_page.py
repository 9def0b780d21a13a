"""The report in a real browser: it opens from disk, sorts, filters, and shows whatever texts and names a sweep has."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from browser import PHONE, Browser, Page, install_hint, program  # type: ignore[import-not-found]
from reports import HOSTILE, PICTURES, enrich, made_page  # type: ignore[import-not-found]

NAME = "<b onmouseover=alert(3)>strong</b></script><script>alert(4)</script>"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(program() is None, reason=install_hint)]
FIRST = "#sheets .sheet:first-child"
SEEDS = "#sheets .sheet:last-child"


PIXEL = """((x, y) => [...document.querySelectorAll('figure img')].map((image) => {
  const context = document.createElement('canvas').getContext('2d');
  context.drawImage(image, 0, 0);
  return [...context.getImageData(x, y, 1, 1).data];
}))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page from a file, and fails where it complained, or asked for anything but itself."""
    pages: list[tuple[Page, Path]] = []
    with contextlib.ExitStack() as stack:
        yield lambda html, **given: _open(html, stack.enter_context(browser.page(**given)), pages, tmp_path)
        for page, file in pages:
            assert page.complaints() == []
            assert page.requests() == [file.as_uri()]


def _open(html, page, pages, folder):
    file = folder / f"report {len(pages)}.html"
    file.write_text(html, encoding="utf-8")
    pages.append((page, file))
    page.open(file)
    page.until(
        "document.documentElement.dataset.filled"
        " && (!document.querySelector('figure') || document.documentElement.dataset.drawn)"
    )
    return page


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)")


def follow(page, selector):
    """Follow a link to a run's page, and wait for it."""
    page.run(f"document.querySelector({selector!r}).click()")
    page.until("!document.getElementById('run').hidden")


def to_run(page, word):
    """The page of the first run with this word in its line."""
    page.run(
        "location.hash = [...document.querySelectorAll('#index tbody tr')]"
        f".find((line) => line.textContent.includes({word!r})).querySelector('a').hash"
    )
    page.until("!document.getElementById('run').hidden && document.querySelector('#run h1')")


def test_a_page_that_complains_or_asks_for_something_is_noticed(browser, tmp_path):
    """Negative control of `opened`."""
    file = tmp_path / "bad.html"
    file.write_text("<script>console.error('ouch'); undefined.x</script><img src='there-is-none.png'>")
    with browser.page() as page:
        page.open(file)
        said = " ".join(page.complaints())
        assert "ouch" in said
        assert "TypeError" in said
        assert page.requests() == [file.as_uri(), (tmp_path / "there-is-none.png").as_uri()]
    file.write_text("<script>alert('hello')</script>")
    with browser.page() as page:
        page.open(file)
        assert page.complaints() == ["dialog: hello"]


def test_it_opens_from_disk_with_its_summary_tables_and_figures(synthetic, opened):
    page = opened(made_page(enrich(synthetic().fill())))
    assert texts(page, "h1") == ["How much of the gap does a student recover?"]
    assert texts(page, ".finding .who") == ["xent", "logconf"]
    assert texts(page, ".finding .legend")[0].startswith("weak 0.")
    assert "Accuracy and performance gap recovered" in texts(page, "#sheets h3")
    assert page.run("[...document.querySelectorAll('figure img')].map((image) => image.naturalWidth)") == [40, 50]
    assert page.run("[...document.querySelectorAll('figure img')].map((image) => image.alt)") == [
        picture.alt for picture in PICTURES.values()
    ]
    assert texts(page, "figcaption") == [picture.title for picture in PICTURES.values()]
    assert page.run(f"{PIXEL}(20, 10)") == [[255, 0, 0, 255], [0, 0, 255, 255]]
    assert "w2s sweep one.yaml" in texts(page, "#reproduce pre")
    assert len(texts(page, "#index tbody tr")) == 13


def test_tables_sort_by_number_with_what_is_absent_last(synthetic, opened):
    made = synthetic(seeds=list(range(11)))
    (weak,) = made.digests("weak weak-3l on movie, seed 7")
    made.store.fail(weak, "out of memory")
    page = opened(made_page(made.fill(leave_out=[weak])))
    heads = texts(page, f"{SEEDS} thead th")
    place = heads.index("Seed")
    column = f"{SEEDS} tbody td:nth-child({place + 1})"
    click = f"document.querySelectorAll('{SEEDS} thead button')[{place}].click()"
    state = f"document.querySelectorAll('{SEEDS} thead th')[{place}].ariaSort"
    first = texts(page, column)
    assert page.run(state) == "none"
    page.run(click)
    up = texts(page, column)
    assert up == sorted(first, key=int) != sorted(first)  # by number, which is not the order of texts
    assert page.run(state) == "ascending"
    page.run(click)
    assert texts(page, column) == up[::-1]
    assert page.run(state) == "descending"
    page.run(click)
    assert (texts(page, column), page.run(state)) == (first, "none")

    place = heads.index("Weak acc.")
    column = f"{SEEDS} tbody td:nth-child({place + 1})"
    for direction in (1, -1):
        page.run(f"document.querySelectorAll('{SEEDS} thead button')[{place}].click()")
        shown = texts(page, column)
        assert shown[-2:] == ["failed", "failed"]
        numbers = [float(text) for text in shown[:-2]]
        assert numbers == sorted(numbers, reverse=direction < 0)
        assert len(set(numbers)) > 2


def test_the_keyboard_sorts_too(synthetic, opened):
    page = opened(made_page(synthetic().fill()))
    page.run(f"document.querySelector('{FIRST} thead button').focus()")
    page.press("Enter", 13, "\r")
    assert page.run(f"document.querySelector('{FIRST} thead th').ariaSort") == "ascending"
    page.press("Tab", 9)
    page.press(" ", 32, " ")
    assert page.run(f"[...document.querySelectorAll('{FIRST} thead th')].map((head) => head.ariaSort).slice(0, 2)") == [
        "none",
        "ascending",
    ]


def test_filters_keep_the_lines_that_hold_all_words(synthetic, opened):
    page = opened(made_page(synthetic().fill()))
    write = (
        f"(text) => {{ const input = document.querySelector('{SEEDS} input'); input.value = text;"
        "input.dispatchEvent(new Event('input')) }"
    )
    assert len(texts(page, f"{SEEDS} tbody tr")) == 6
    page.run(f"({write})('LOGCONF movie')")
    assert len(texts(page, f"{SEEDS} tbody tr")) == 3
    assert texts(page, f"{SEEDS} .count") == ["3 of 6 lines"]
    page.run(f"({write})('nowhere')")
    assert texts(page, f"{SEEDS} tbody tr") == []
    page.run(f"({write})('')")
    choose = "(menu) => { menu.value = 'xent'; menu.dispatchEvent(new Event('change')) }"
    page.run(f"({choose})(document.querySelector('{SEEDS} select'))")
    assert [line for line in texts(page, f"{SEEDS} tbody tr") if "logconf" in line] == []
    assert texts(page, f"{SEEDS} .count") == ["3 of 6 lines"]


def test_long_tables_make_their_lines_as_they_come_into_view_and_all_for_paper(synthetic, opened):
    page = opened(made_page(synthetic(seeds=list(range(40))).fill()))
    lines = f"document.querySelectorAll('{SEEDS} tbody tr').length"
    assert page.run(lines) == 60
    assert texts(page, f"{SEEDS} .count") == ["80 lines"]
    page.run(f"document.querySelector('{SEEDS} .scroll').scrollTo(0, 1e6)")
    page.until(f"{lines} === 80")
    page.run(f"document.querySelector('{SEEDS} thead button').click()")
    assert page.run(lines) == 60
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    assert page.run(lines) == 80


def test_html_in_texts_and_names_shows_as_text(synthetic, opened):
    made = enrich(synthetic(question=HOSTILE).fill(), text=HOSTILE + " {i}")
    plan = made.root / "sweeps" / "one" / "plan.json"  # a sweep's names hold no such letters; its plan may be edited
    changed = json.loads(plan.read_text())
    for cell in changed["cells"]:
        cell["student"] = NAME
        cell["task"] = HOSTILE if cell["seed"] else cell["task"]
    for step in changed["steps"]:
        step["title"] = step["title"].replace("strong-20l", NAME)
    plan.write_text(json.dumps(changed))
    page = opened(made_page(made))
    assert texts(page, "h1") == [" ".join(HOSTILE.replace("\u2028", " ").split())]
    assert any(NAME in text for text in texts(page, f"{SEEDS} tbody td"))
    to_run(page, "xent")
    assert NAME in texts(page, "#run h1")[0]
    assert [text for text in texts(page, "#run blockquote") if not text.startswith(HOSTILE)] == []
    assert len(texts(page, "#run blockquote")) == 20
    assert page.run("document.querySelectorAll('img[src=x], [onerror], [onmouseover], main script').length") == 0


def test_each_run_has_a_page_with_its_lineage_training_and_examples(synthetic, opened):
    page = opened(made_page(enrich(synthetic().fill(), text="words of {i}")))
    follow(page, f"{SEEDS} tbody td:nth-child(6) a")
    (heading,) = texts(page, "#run h1")
    assert heading.startswith("student strong-20l of weak-3l on movie")
    assert page.run("document.title").startswith(heading)
    assert page.run("document.getElementById('overview').hidden")
    sections = texts(page, "#run h2")
    assert sections == ["Lineage", "Numbers on test", "Training", "Where student and supervisor disagree",
                        "Environment", "Configuration"]  # fmt: skip
    assert len(texts(page, "#run .examples li")) == 20
    assert texts(page, "#run .verdicts")[0].count("✓ right") == 1
    assert page.run("document.querySelectorAll('#run svg polyline').length") == 2
    assert "mean of 3 steps" in texts(page, "#run .key")[0]
    described = " ".join(texts(page, "#run dl"))
    for word in ("a-host", "torch 2.13.0", "c0ffee", "12.5 s", "812 MiB", "2026-11-21"):
        assert word in described
    assert "supervisor:" in texts(page, "#run pre")[-1]

    lineage = texts(page, "#run .lineage li")
    assert lineage[0] == "datadata movie"
    assert re.fullmatch(r".*weak weak-3l on movie, seed \d.*right for \d+\.\d % of them", lineage[1])
    page.run("document.querySelectorAll('#run .lineage a')[1].click()")
    page.until("document.querySelector('#run h1').textContent.startsWith('weak')")
    assert "Its labels teach 2 students" in texts(page, "#run summary")
    assert heading in texts(page, "#run details li")
    page.run("document.querySelectorAll('#run .lineage a')[0].click()")
    page.until("document.querySelector('#run h1').textContent === 'data movie'")
    assert "classes:" in texts(page, "#run pre")[0]
    page.run("document.querySelector('#run .back a').click()")
    page.until("!document.getElementById('overview').hidden")
    assert page.run("document.title") == "one · w2s"
    follow(page, f"{SEEDS} tbody td:nth-child(6) a")
    page.run("document.querySelector('.top a[href=\"#figures\"]').click()")
    page.until("!document.getElementById('overview').hidden")
    assert page.run("Math.abs(document.getElementById('figures').getBoundingClientRect().top) < innerHeight")
    page.run("location.hash = '#run/0123456789ab'")
    page.until("!document.getElementById('run').hidden")
    assert texts(page, "#run h1") == ["This report has no run 0123456789ab"]


def test_the_way_back_leads_to_the_link_that_was_followed(synthetic, opened):
    page = opened(made_page(enrich(synthetic().fill())))
    page.run(f"document.querySelector('{SEEDS} tbody td:nth-child(6) a').focus()")
    page.press("Enter", 13, "\r")
    page.until("!document.getElementById('run').hidden")
    assert page.run("document.activeElement.id") == "run"
    left = page.run("location.hash")
    page.run("history.back()")
    page.until("!document.getElementById('overview').hidden")
    assert page.run("document.activeElement.hash") == left


def test_the_evaluations_that_were_selected_are_named(chosen, opened):
    page = opened(made_page(enrich(chosen(seeds=[0]).fill())))
    to_run(page, "xent")
    (said,) = [text for text in texts(page, "#run .hint") if text.startswith("Dashed")]
    assert re.fullmatch(
        r"Dashed: the evaluations that were selected \(step \d+ by weak_val, step \d+ by oracle\)\.", said
    )


def test_a_partial_sweep_shows_what_failed_is_blocked_and_missing(synthetic, opened):
    made = synthetic()
    (weak,) = made.digests("weak weak-3l on movie, seed 2")
    (ceiling,) = made.digests("ceiling strong-20l on movie, seed 1")
    blocked = made.digests("xent, seed 2") + made.digests("logconf, seed 2")
    made.fill(leave_out=[weak, ceiling, *blocked])
    made.store.fail(weak, f"out of memory {HOSTILE}", "Traceback: at line 7")
    made.store.log_path(weak).write_text("".join(f"line {i}\n" for i in range(2000)))
    page = opened(made_page(enrich(made)))
    notice = " ".join(texts(page, "#summary .notice"))
    places = "[...document.querySelectorAll('#summary .notice, #summary .findings')].map((one) => one.className)"
    assert page.run(places)[-1] == "findings"  # who reads the numbers knows first what is not in them
    for word in (
        "failed: weak weak-3l on movie, seed 2: out of memory",
        "blocked: student strong-20l of weak-3l",
        "missing: ceiling",
    ):
        assert word in notice
    assert "8 of 12 runs done" in texts(page, ".facts span")
    to_run(page, "failed")
    assert "out of memory" in texts(page, "#run .bad")[0]
    detail, log = texts(page, "#run pre")
    assert detail == "Traceback: at line 7"
    assert log.endswith("line 1999\n")
    assert len(log) <= 4000
    assert log.startswith("line ")
    to_run(page, "blocked")
    page.until("document.querySelector('#run h1').textContent.startsWith('student')")
    assert "Blocked: needs weak weak-3l on movie, seed 2, which failed" in texts(page, "#run .bad")[0]
    assert "No examples: the student has no predictions that could be read." in texts(page, "#run p")
    to_run(page, "missing")
    page.until("document.querySelector('#run h1').textContent.startsWith('ceiling')")
    assert texts(page, "#run .warn") == ["Missing: not run yet"]


def test_nothing_run_yet_is_a_page_too(synthetic, opened):
    page = opened(made_page(synthetic()))
    assert "0 of 12 runs done" in texts(page, ".facts span")
    assert texts(page, "#environment p") == ["No run has finished yet. "]


def test_a_phone_scrolls_tables_and_never_the_page(synthetic, opened):
    made = enrich(synthetic().fill(), text="a-very-long-word-" * 40 + "{i}")
    page = opened(made_page(made), size=PHONE)
    wide = "document.documentElement.scrollWidth"
    assert page.run(wide) == PHONE[0]
    inner = (
        f"(({{ scrollWidth, clientWidth }}) => scrollWidth > clientWidth)(document.querySelector('{SEEDS} .scroll'))"
    )
    assert page.run(inner)
    to_run(page, "xent")
    assert page.run(wide) == PHONE[0]
    page.run("document.body.append(Object.assign(document.createElement('pre'), { textContent: 'x'.repeat(500) }))")
    assert page.run(wide) > PHONE[0]  # negative control


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const rgb = parse(getComputedStyle(at).backgroundColor);
      if (rgb.length === 3 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const seen = [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.closest('svg')
    && [...one.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()));
  return seen.map((one) => {
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.tagName + '.' + one.className];
  }).sort((a, b) => a[0] - b[0]);
})()"""


def test_dark_mode_is_dark_and_both_modes_are_legible(synthetic, opened):
    made = synthetic()
    (weak,) = made.digests("weak weak-3l on movie, seed 2")
    made.store.fail(weak, "out of memory")
    html = made_page(enrich(made.fill(leave_out=[weak])))
    grounds = []
    for dark in (False, True):
        page = opened(html, dark=dark)
        grounds.append(page.run("getComputedStyle(document.body).backgroundColor"))
        for place in ("", "failed", "xent"):
            if place:
                to_run(page, place)
            found = page.run(CONTRAST)
            assert len(found) > 5
            assert found[0][0] >= 4.5, found[:3]  # WCAG 2, AA
        assert page.run("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    day, night = (sum(map(int, re.findall(r"\d+", ground)[:3])) for ground in grounds)
    assert day > 700
    assert night < 120
