"""The pages: self-contained, escaped, complete, and drawn again from the files alone."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys

import pytest
import report_samples

from tff_hospitals import reports
from tff_hospitals.foundations import files
from tff_hospitals.reports import html as comparison_html
from tff_hospitals.reports import html_run, pages, rerender, run_files
from tff_hospitals.reports.metric_tables import metric_tables
from tff_hospitals.reports.plot_style import Picture
from tff_hospitals.reports.summary import summary_from_json

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7*7 }}"
PICTURE = Picture("sample", "Sample", "caption", "alt", b"png", '<svg role="img" aria-label="alt"></svg>')
VOID = {"meta", "br", "img", "wbr", "hr", "link", "input"}


class Page(html.parser.HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(source, pictures=(PICTURE,), directory=None):
    return Page(comparison_html.comparison_page(summary_from_json(source), pictures, (), directory))


def loads(page):
    """Addresses that a browser would fetch by itself."""
    found = [
        attributes[name]
        for _, attributes in page.tags
        for name in ("src", "srcset", "poster", "data")
        if name in attributes
    ]
    found += [attributes.get("href", "") for attributes in (*page.all("link"), *page.all("use"), *page.all("image"))]
    styles = " ".join(page.words) + " ".join(attributes.get("style") or "" for _, attributes in page.tags)
    return [one for one in (*found, *re.findall(r"url\(([^)]*)\)|@import", styles)) if one and not one.startswith("#")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A comparison directory as the main job leaves it, with its report."""
    folder = tmp_path_factory.mktemp("comparison")
    source = report_samples.sample_summary(methods=report_samples.METHODS[4:6], rounds=3, targets=(5.0,))
    (folder / "summary.json").write_text(json.dumps(source))
    report_samples.write_sample_run(folder / "runs" / "dp_sgd-eps5-seed42", rounds=3)
    (folder / "runs" / "half #1").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    paths = reports.write_report(folder)
    return folder, paths, before


def test_everything_is_written_and_nothing_else_touched(written):
    folder, paths, before = written
    assert [path.name for path in paths] == [
        "summary.csv",
        "accuracy_against_epsilon.png",
        "accuracy_per_hospital.png",
        "bytes_against_accuracy.png",
        "accuracy_by_round.png",
        "report.html",
    ]
    assert all(path.stat().st_size > 0 for path in paths)
    assert {path: path.read_bytes() for path in before} == before
    now = {path for path in folder.rglob("*") if path.is_file()}
    assert now == {*before, *paths}


def test_the_page_loads_nothing_from_elsewhere(written):
    page = Page((written[0] / "report.html").read_text())
    assert loads(page) == []
    assert len(page.all("svg")) == 4
    addresses = re.findall(r"https?://[^\"'\s<)]*", (written[0] / "report.html").read_text())
    assert set(addresses) == {"http://www.w3.org/2000/svg"}  # a name, not an address to load
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_links_to_runs_stay_in_the_folder(written):
    page = Page((written[0] / "report.html").read_text())
    hrefs = [attributes["href"] for attributes in page.all("a")]
    assert "./runs/dp_sgd-eps5-seed42/" in hrefs
    assert "./runs/half%20%231/" in hrefs
    assert "not finished or not readable" in page.text
    assert pages.link("runs", "../../etc", "javascript:x") == "./runs/..%2F..%2Fetc/javascript%3Ax"


@pytest.mark.slow
def test_drawing_again_gives_the_same_bytes(written):
    folder = written[0]
    first = (folder / "report.html").read_bytes()
    reports.write_report(folder)
    assert (folder / "report.html").read_bytes() == first


def test_hostile_names_are_text():
    source = report_samples.sample_summary(hospitals=((HOSTILE, 10, 5), ("b", 10, 5)))
    source.update(title=HOSTILE, command=HOSTILE, versions={HOSTILE: HOSTILE})
    source["dataset"].update(name=HOSTILE, licence=HOSTILE, partition=HOSTILE, provenance=HOSTILE)
    for row in source["rows"]:
        row.update(label=HOSTILE, warnings=[HOSTILE], guarantee=HOSTILE, stop_reason=HOSTILE, worst_hospital=None)
    page = page_of(source)
    assert len(page.all("script")) == 1  # ours
    assert page.all("img") == []
    assert "alert('x')" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_page_says_what_a_reader_must_know():
    source = report_samples.sample_summary()
    page = page_of(source)
    for words in (
        "which way of training together costs least",
        "real hospitals",
        "one record (patient)",
        "one whole hospital",
        "ledger of the releases that the run really made",
        "Delta: 1e-3",
        "CC BY 4.0",
        "Synthetic figures for tests, shaped like UCI Heart Disease",
        "natural: every record stays",
        "It uses statistics of the records that no guarantee here covers",
        "scripts/compare_aggregators.py --run_dir=runs/sample",
        "tensorflow 2.14.1",
        report_samples.VACUOUS,
        "42, 43, 44, 45, 46",
    ):
        assert words in page.text, words
    assert "simulated hospitals" not in page.text


def test_simulated_hospitals_wear_a_badge():
    source = report_samples.sample_summary()
    source["dataset"].update(simulated=True, partition="Dirichlet label skew, alpha 0.5")
    page = page_of(source)
    assert {"class": "caution"} in page.all("li")
    assert "simulated hospitals" in page.text
    assert "Dirichlet label skew, alpha 0.5" in page.text


def test_the_table_is_accessible_and_sortable():
    page = page_of(report_samples.sample_summary())
    heads = page.all("th")
    assert all("scope" in attributes for attributes in heads)
    cells = [attributes["data-value"] for attributes in page.all("td") if "data-value" in attributes]
    assert "" in cells  # a missing epsilon sorts last, not as a number
    assert sum(attributes.get("scope") == "rowgroup" for attributes in heads) == 4
    assert all(attributes.get("aria-label") for attributes in page.all("svg"))
    assert page.all("html") == [{"lang": "en"}]


def test_many_hospitals_collapse_to_a_range_with_the_details_below():
    page = page_of(report_samples.sample_summary(hospitals=report_samples.many_hospitals(25)))
    assert "lowest" in page.text
    assert all(name in page.text for name, *_ in report_samples.many_hospitals(25))
    assert "Every metric at every hospital" in page.text
    assert "Records of all 25 hospitals" in page.text


def test_one_seed_and_no_guarantee_are_said():
    source = report_samples.sample_summary(methods=report_samples.METHODS[:3], seeds=(1,))
    page = page_of(source, pictures=())
    assert "one seed, so no spread is known" in page.text
    assert "No method here gives a guarantee" in page.text


def test_a_run_page(tmp_path):
    report_samples.write_sample_run(tmp_path, rounds=3)
    (tmp_path / "timing.csv").unlink()
    run = run_files.read_run(tmp_path)
    page = Page(html_run.run_page(run, [PICTURE]))
    assert loads(page) == []
    for words in (
        "dp_sgd: one run on heart_disease",
        "seed 42",
        "round limit",
        "all hospitals together",
        "the worst hospital",
    ):
        assert words in page.text, words
    assert "Seconds by round are not shown" in page.text
    assert run.curve("cleveland", "accuracy")[0][0] == 1.0
    assert run.hospital_ids == ("cleveland", "hungary", "switzerland", "va_long_beach")


def test_a_run_page_escapes_and_lives_without_its_record(tmp_path):
    report_samples.write_sample_run(tmp_path, rounds=2)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary.update(label=HOSTILE, stop_reason=HOSTILE)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "record.json").unlink()
    (tmp_path / "plan.json").write_text("{")
    page = Page(html_run.run_page(run_files.read_run(tmp_path), []))
    assert page.all("script") == []
    assert page.all("img") == []
    assert "record.json is not shown" in page.text
    assert "plan.json is not shown" in page.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lacks the columns round, hospital"),
        ("round,hospital\n0,a\n", "lacks the columns loss"),
        (None, "does not exist"),
    ],
)
def test_bad_metrics_are_named(text, words, tmp_path):
    report_samples.write_sample_run(tmp_path, rounds=2)
    metrics = tmp_path / "metrics.csv"
    metrics.unlink() if text is None else metrics.write_text(text)
    with pytest.raises(files.RecordError, match=words):
        reports.write_report(tmp_path)


def test_half_written_metrics_are_named_with_line_and_column(tmp_path):
    report_samples.write_sample_run(tmp_path, rounds=2)
    metrics = tmp_path / "metrics.csv"
    whole = metrics.read_text()
    metrics.write_text(whole[: len(whole) - 40])
    with pytest.raises(files.RecordError, match="line 11 has not 15 cells"):
        reports.write_report(tmp_path)
    metrics.write_text(whole.replace("\n1,hungary,", "\n1,hungary,much", 1))
    with pytest.raises(files.RecordError, match="line 3, column loss: 'much"):
        reports.write_report(tmp_path)


def test_folders_that_hold_nothing_to_report_are_named(tmp_path):
    with pytest.raises(files.RecordError, match="is not a folder"):
        reports.write_report(tmp_path / "nowhere")
    with pytest.raises(files.RecordError, match="does not exist"):
        reports.write_report(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(files.RecordError, match="has not finished"):
        reports.write_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"name": "another program"}')
    with pytest.raises(files.RecordError, match="neither a comparison"):
        reports.write_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"rows": [')
    with pytest.raises(files.RecordError, match="cannot be read"):
        rerender.is_comparison(tmp_path)


def test_the_script_answers_without_loading_what_it_does_not_need(checkout, tmp_path):
    code = (
        "import sys; from tff_hospitals.experiments import report_command\n"
        "print(sorted(set(sys.modules) & {'matplotlib', 'numpy', 'jinja2', 'tensorflow', 'scipy', 'pandas'}))"
    )
    light = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=checkout, timeout=60)
    assert light.stdout.strip() == "[]", light.stderr
    script = [sys.executable, str(checkout / "scripts" / "report.py")]
    helped = subprocess.run([*script, "--help"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert "--run_dir" in helped.stdout
    assert "folder of a comparison or a run" in " ".join(helped.stdout.split())
    refused = subprocess.run([*script, f"--run_dir={tmp_path / 'none'}"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "is not a folder" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_every_metric_stands_with_its_counts_and_intervals_and_a_dash_where_it_is_not_defined():
    source = report_samples.sample_summary(methods=report_samples.METHODS[:2], seeds=(1, 2))
    source["headline"] = "auc"
    source["test_records_by_class"] = {"cleveland": {"0": 60, "1": 44}, "switzerland": {"0": 0, "1": 16}}
    low, high = {"cleveland": 0.8, "switzerland": None}, {"cleveland": 0.9, "switzerland": None}
    source["rows"][0].update(
        auc_per_hospital={"cleveland": 0.85, "switzerland": None},
        auc_low_per_hospital=low,
        auc_high_per_hospital=high,
        auc_pooled_mean=0.83,
        auc_worst=0.85,
        auc_worst_hospital="cleveland",
    )
    summary = summary_from_json(source)
    tables = metric_tables(summary, summary.rows)
    assert [one["title"] for one in tables] == ["AUC", "Loss", "Accuracy"]  # the headline first
    lines = {line[0]: line[1:] for line in tables[0]["rows"]}
    assert lines["cleveland"] == ["104 (44 positive)", "0.850 (0.80–0.90)", "-"]
    assert lines["switzerland"] == ["16 (16 positive)", "-", "-"]
    assert lines["hungary"][0] == "89"  # counted, but not by class
    assert lines["all test records together"][:2] == ["120 (60 positive)", "0.830"]
    assert lines["worst hospital"][1] == "0.850 at cleveland"
    page = page_of(source, pictures=())
    assert "104 (44 positive)" in page.text


def _page(**changes):
    return comparison_html.comparison_page(summary_from_json(report_samples.sample_summary(**changes)), [])


def test_the_headline_says_what_each_promise_costs():
    page = _page()
    assert "Hiding each patient&#39;s record (epsilon 1) costs at most" in page
    assert re.search(
        r"Hiding each hospital as a whole \(epsilon 1\) costs \d+\.\d points: Fixed clipping against", page
    )
    assert "No method here makes a promise" in _page(methods=report_samples.METHODS[:4])
    assert "too few seeds to tell" in _page(seeds=(42,))


def test_what_was_promised_stands_beside_what_was_attacked():
    assert "No run was attacked here" in _page()
    page = _page(attacks=True)
    assert "No run was attacked here" not in page
    assert "does not contradict the promise" in page
    broken = report_samples.sample_summary(attacks=True)
    row = next(one for one in broken["rows"] if one["method"] == "dp_sgd")
    row["epsilon_lower_bound"] = 2 * row["epsilon"]
    assert comparison_html.comparison_page(summary_from_json(broken), []).count("BROKEN: more than was promised") == 1


def test_rows_can_be_filtered_where_they_differ():
    page = _page()
    assert '<select data-filter="unit">' in page
    assert "<option>5.00</option>" in page
    assert "<select data-filter" not in _page(methods=report_samples.METHODS[:4])
