"""What a person looks at, in a real browser: the report of a comparison and the front page of the documentation.

With TFF_HOSPITALS_PICTURES=FOLDER the pages are kept there as pictures.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import browser as driven
import pytest
from report_samples import sample_summary

from tff_hospitals.reports import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(driven.missing()), reason=f"no browser here: {driven.missing()} not installed"),
]
WIDTHS = (1280, 390)
TAB, ENTER = "\ue004", "\ue007"


@pytest.fixture(scope="module")
def browser():
    with driven.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "summary.json").write_text(json.dumps(sample_summary(attacks=True)))
    write_report(folder)
    with driven.served(folder) as address:
        yield f"{address}/report.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory, checkout):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("MkDocs is not installed here (requirements-docs.lock)")
    folder = tmp_path_factory.mktemp("site") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "docs.build", str(folder)], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    with driven.served(folder) as address:
        yield address


def looked_at(browser, url, width, name, *, dark=False, prepare=""):
    browser.errors(), browser.requests()
    browser.open(url, width, dark=dark)
    browser.script(
        "var still = document.createElement('style'); still.textContent = '* { transition: none !important; }';"
        "document.head.appendChild(still);" + prepare
    )
    assert browser.script("return document.documentElement.scrollWidth") <= width, "scrolls to the side"
    assert browser.script(driven.CONTRAST) == []
    outside = [one for one in browser.requests() if not one.startswith(("http://127.0.0.1:", "data:"))]
    assert outside == []
    assert [one for one in browser.errors() if "favicon.ico" not in one] == []
    if os.environ.get("TFF_HOSPITALS_PICTURES"):
        folder = pathlib.Path(os.environ["TFF_HOSPITALS_PICTURES"])
        browser.picture(folder / f"{name}_{width}{'_dark' * dark}.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_can_be_read(browser, report, width, dark):
    looked_at(browser, report, width, "report", dark=dark)


def test_the_table_of_methods_fits_a_screen_with_its_gains(browser, tmp_path):
    summary = sample_summary()
    for row in summary["rows"]:
        if row["method"] not in ("local", "pooled"):
            row["kind"] = "federated"
            for end, gain in (("", 0.01), ("_low", -0.01), ("_high", 0.03)):
                row[f"gain{end}_per_hospital"] = dict.fromkeys(row["accuracy_per_hospital"], gain)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    write_report(tmp_path)
    with driven.served(tmp_path) as address:
        browser.open(f"{address}/report.html", 1280)
        box = "var box = document.getElementById('methods').parentElement; return "
        assert "gain" in browser.script("return document.querySelector('#methods thead').textContent")
        assert browser.script(f"{box} box.scrollWidth") <= browser.script(f"{box} box.clientWidth")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "page", ["index", "notebook", "quick_start", "lessons/missing_class", "reference/tff_hospitals.plan"]
)
def test_the_documentation_can_be_read(browser, site, page, width, dark):
    scheme = "slate" if dark else "default"  # as a reader chooses it by the button
    prepare = f"document.body.dataset.mdColorScheme = '{scheme}';"
    looked_at(browser, f"{site}/{page}.html", width, page.replace("/", "_"), dark=dark, prepare=prepare)


def test_the_table_is_sorted_by_keys_alone(browser, report):
    browser.open(report, 1280)
    for _ in range(60):
        browser.press(TAB)
        if browser.script("return document.activeElement.matches('#methods thead button')"):
            break
    names = "return Array.from(document.querySelectorAll('#methods tbody tr:not(.group) th')).map(x => x.dataset.value)"
    before = browser.script(names)
    browser.press(ENTER)
    state = "return document.activeElement.closest('th').getAttribute('aria-sort')"
    assert browser.script(state) == "ascending"
    assert browser.script(names) == sorted(before, key=str.lower)
    browser.press(ENTER)
    assert browser.script(state) == "descending"
    browser.press(ENTER)
    assert browser.script(names) == before


def test_rows_are_filtered(browser, report):
    browser.open(report, 1280)
    browser.script(
        "var one = document.querySelector('[data-filter=unit]'); one.value = 'record';"
        "one.dispatchEvent(new Event('change'));"
    )
    visible = "return Array.from(document.querySelectorAll('#methods tbody tr')).filter(x => x.offsetParent !== null)"
    assert set(browser.script(f"{visible}.map(x => x.className === 'group' ? 'group' : x.dataset.unit)")) == {
        "group",
        "record",
    }
    assert browser.script(f"{visible}.filter(x => x.className === 'group').length") == 1
