"""Figures: labels that never overlap, pictures that show the data, gaps in the data that do not break them."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import pytest
import report_samples
from hypothesis import given
from hypothesis import strategies as st

from tff_hospitals.foundations import files
from tff_hospitals.foundations.second_process import SecondProcess
from tff_hospitals.reports import plot_labels, plot_privacy, plot_style, plots
from tff_hospitals.reports.plot_attacks import attacks_against_epsilon
from tff_hospitals.reports.plot_bands import error_against_bands
from tff_hospitals.reports.plot_bytes import bytes_against_accuracy
from tff_hospitals.reports.plot_hospitals import accuracy_per_hospital
from tff_hospitals.reports.plot_privacy import accuracy_against_epsilon
from tff_hospitals.reports.plot_rounds import accuracy_by_round
from tff_hospitals.reports.plot_run import run_by_round
from tff_hospitals.reports.run_files import read_run
from tff_hospitals.reports.summary import summary_from_json
from tff_hospitals.training.metrics import METRICS

LONG = tuple((m, label + " with a very long name, spelt out, " + m, *r) for m, label, *r in report_samples.METHODS)
CASES = {
    "plain": {},
    "three methods": {"methods": report_samples.METHODS[4:7]},
    "16 methods": {"methods": report_samples.many_methods(16)},
    "one seed": {"seeds": (1,), "targets": (5.0,)},
    "long names": {"methods": LONG, "hospitals": tuple((f"hospital_of_a_very_long_name_{k}", 9, 4) for k in range(4))},
    "25 hospitals": {"hospitals": report_samples.many_hospitals(25)},
}


def sample(**changes):
    return summary_from_json(report_samples.sample_summary(**changes))


@given(
    st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=20),
    st.floats(0.001, 0.2),
)
def test_spread_keeps_order_gap_and_limits(wanted, gap):
    places = plot_labels.spread(wanted, gap, 0.0, 1.0)
    gap = min(gap, 1.0 / max(len(wanted) - 1, 1))
    pairs = sorted(zip(wanted, places))
    assert all(-1e-9 <= place <= 1.0 + 1e-9 for place in places)
    found = sorted(places)
    assert all(b - a >= gap - 1e-9 for a, b in zip(found, found[1:]))
    assert all(low[1] <= high[1] for low, high in zip(pairs, pairs[1:]) if low[0] < high[0])


def test_spread_leaves_labels_with_room_alone():
    assert plot_labels.spread([0.2, 0.8, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.2, 0.8, 0.5])


@pytest.fixture
def captured(monkeypatch):
    """Figures are kept instead of rendered: what is asked here is where their texts stand."""
    sheets = []

    def keep(self, name, title, caption, alt):
        sheets.append(self)
        return plot_style.Picture(name, title, caption, alt, b"", "")

    monkeypatch.setattr(plot_style.Sheet, "finish", keep)
    return sheets


def boxes(sheet):
    """Pixel boxes of all texts that are drawn, ticks included."""
    figure = sheet.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label]
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted(limits)
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        if axes.get_legend() is not None:
            texts += axes.get_legend().get_texts()
    return [
        (text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text() and text.get_visible()
    ]


DRAWERS = (
    accuracy_against_epsilon,
    accuracy_per_hospital,
    bytes_against_accuracy,
    accuracy_by_round,
    attacks_against_epsilon,
)
QUICK = {  # the cases that are hardest for each figure; the others are slow tests
    (accuracy_against_epsilon, "16 methods"),
    (accuracy_per_hospital, "long names"),
    (bytes_against_accuracy, "plain"),
    (accuracy_by_round, "16 methods"),
    (attacks_against_epsilon, "plain"),
}
GRID = [
    pytest.param(draw, case, id=f"{draw.__name__}-{case}", marks=() if (draw, case) in QUICK else pytest.mark.slow)
    for draw in DRAWERS
    for case in CASES
]


@pytest.mark.parametrize(("draw", "case"), GRID)
def test_no_text_overlaps_or_leaves_the_sheet(draw, case, captured):
    with plot_style.drawing():
        assert draw(sample(**CASES[case], attacks=True)) is not None
        (sheet,) = captured
        found = boxes(sheet)
    width, height = sheet.figure.canvas.get_width_height()
    for text, box in found:
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < width + 1, text
        assert box.y1 < height + 1, text
    for (one, a), (other, b) in itertools.combinations(found, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert not (overlap[0] > 2.0 and overlap[1] > 2.5), f"{one!r} over {other!r} by {overlap} pixels"


def test_marks_at_one_epsilon_are_moved_apart_but_not_into_each_other():
    factors = plot_privacy.dodge([1.0, 1.0, 1.01, 5.0], 1.2)
    assert len(set(factors[:3])) == 3
    assert factors[3] == 1.0
    assert max(factors[:3]) < 5.0**0.5
    assert plot_privacy.dodge([2.0], 1.2) == [1.0]


def test_limits_are_not_crushed_by_the_interval_of_two_seeds():
    wide = plot_privacy.score_limits(METRICS["accuracy"], [0.70, 0.72], [type("I", (), {"low": -0.5, "high": 1.9})()])
    assert wide[1] - wide[0] < 0.25
    low, high = plot_privacy.score_limits(METRICS["accuracy"], [0.7], [])
    assert high - low >= 0.06


def test_a_method_that_fails_does_not_flatten_the_other_panel(captured):
    source = report_samples.sample_summary(methods=report_samples.METHODS[2:8], rounds=2)
    with plot_style.drawing():
        accuracy_against_epsilon(summary_from_json(source))
        for row in source["rows"]:
            if row["unit"] == "hospital":
                row["accuracy_mean"] = 0.2
        accuracy_against_epsilon(summary_from_json(source))
    shared, apart = ([axes.get_ylim() for axes in sheet.figure.axes] for sheet in captured)
    assert shared[0] == shared[1]
    assert apart[0][1] - apart[0][0] < 0.2
    assert apart[1][0] < 0.2


@pytest.fixture(scope="module")
def drawn():
    return plots.draw_all(sample(methods=report_samples.METHODS[4:7], rounds=3))


def test_every_figure_is_there(drawn, tmp_path):
    pictures, missing = drawn
    assert [picture.name for picture in pictures] == [
        *("accuracy_against_epsilon", "accuracy_per_hospital", "bytes_against_accuracy", "accuracy_by_round")
    ]
    assert missing == []
    for path, picture in zip(plots.write_plots(tmp_path, pictures), pictures):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(picture.png) > 20_000
        assert "var(--c" in picture.svg
        assert picture.alt


def test_other_data_draw_another_picture_and_equal_data_the_same(drawn):
    source = report_samples.sample_summary(methods=report_samples.METHODS[4:7], rounds=3)
    with plot_style.drawing():
        same = accuracy_per_hospital(summary_from_json(source))
        source["rows"][0]["accuracy_per_hospital"]["cleveland"] += 0.02
        other = accuracy_per_hospital(summary_from_json(source))
    assert same.svg == drawn[0][1].svg
    assert same.png == drawn[0][1].png
    assert other.svg != same.svg
    assert other.png != same.png


def test_gaps_in_the_data_leave_figures_out_with_a_reason(captured):
    source = report_samples.sample_summary(methods=report_samples.METHODS[:3])
    for row in source["rows"]:
        row.update(bytes_up=None, bytes_down=None, accuracy_per_hospital={}, curve=[])
    pictures, missing = plots.draw_all(summary_from_json(source))
    assert pictures == []
    assert len(missing) == 4
    assert "no method has both a guarantee and an accuracy" in missing[0]


def test_a_second_process_draws_the_same_pictures(tmp_path):
    content = report_samples.sample_summary(methods=report_samples.METHODS[4:7], rounds=3)
    files.write_json(tmp_path / "summary.json", content)
    name = "bytes_against_accuracy"
    with SecondProcess(cores=2) as second, plot_style.drawing():
        assert second.ask(plots.draw_elsewhere, tmp_path / "nowhere")
        assert second.ask(plots.draw_elsewhere, tmp_path)
        with pytest.raises(files.RecordError, match="nowhere"):
            second.answer()
        found = second.answer()
        assert list(found) == list(plots.ELSEWHERE)
        assert found[name] == plots.DRAWN[name](summary_from_json(content))


@pytest.mark.parametrize("answers", ["drawn", "failed", "alone"])
def test_what_a_second_process_does_not_draw_is_drawn_here(monkeypatch, answers):
    """It saves time and nothing else: same pictures, same order, same words."""
    here = []
    draws = {name: lambda summary, name=name: here.append(name) or f"{name} of {summary}" for name in plots.DRAWN}
    monkeypatch.setattr(plots, "DRAWN", draws)
    elsewhere = {name: f"{name} of it" for name in plots.ELSEWHERE}
    answer = {"drawn": lambda: elsewhere, "failed": SecondProcess(cores=1).answer, "alone": None}[answers]
    assert plots.draw_all("it", answer) == ([f"{name} of it" for name in draws], [])
    assert sorted(here) == sorted(name for name in draws if answers != "drawn" or name not in elsewhere)


def test_nulls_among_the_rows_are_passed_over(captured):
    source = report_samples.sample_summary()
    source["rows"][0].update(accuracy_mean=None, accuracy_per_seed=[], accuracy_per_hospital={})
    source["rows"][5].update(epsilon=None, epsilon_per_hospital={}, worst_hospital=None)
    source["rows"][6]["accuracy_per_hospital"]["hungary"] = None
    source["rows"][7]["curve"][3].update(accuracy_mean=None, epsilon=None)
    source["rows"][8].update(bytes_up=None)
    pictures, missing = plots.draw_all(summary_from_json(source))
    assert len(pictures) == 4
    assert missing == []


def test_dollar_signs_and_brackets_in_names_are_only_letters():
    source = report_samples.sample_summary(methods=report_samples.METHODS[4:6], rounds=2)
    for row in source["rows"]:
        row["label"] = r"$\frac{1}{ --><script>alert(1)</script> 方法"
    with plot_style.drawing():
        picture = accuracy_per_hospital(summary_from_json(source))
    assert "<script" not in picture.svg
    assert "<!--" not in picture.svg


def test_the_planner_s_table_of_bands_is_drawn_where_a_row_has_one(captured):
    plain = sample(methods=report_samples.METHODS[4:7])
    with plot_style.drawing():
        assert error_against_bands(plain) is None
    table = {"1": 40.0, "2": 39.0, "4": 42.0, "chosen": 2.0}
    rows = [dataclasses.replace(row, values={**row.values, "error_by_bands": table}) for row in plain.rows]
    with plot_style.drawing():
        picture = error_against_bands(dataclasses.replace(plain, rows=tuple(rows)))
    assert "2 bands, 1.00 at 1, 0.975 at 2, 1.05 at 4" in picture.alt
    (axes,) = captured[0].figure.axes
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(marks) == len(rows)
    assert [float(x) for x in marks[0].get_xdata()] == [2.0]


@pytest.mark.parametrize(("unit", "hospitals"), [("record", 4), ("none", 4), ("record", 30)])
def test_a_run_is_drawn_by_round(unit, hospitals, tmp_path, captured):
    report_samples.write_sample_run(tmp_path, unit=unit, hospitals=report_samples.many_hospitals(hospitals), rounds=4)
    with plot_style.drawing():
        assert run_by_round(read_run(tmp_path)) is not None
    titles = [axes._left_title.get_text() for axes in captured[0].figure.axes]
    assert any("Epsilon" in title for title in titles) == (unit == "record")
    texts = {text.get_text() for axes in captured[0].figure.axes for text in axes.texts}
    assert ("median" in texts) == (hospitals == 30)


def test_palette_keeps_its_distance_from_both_pages():
    """Contrast of at least 2.4 : 1 against the light and the dark card, for every colour that carries data."""

    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a, b):
        light, dark = sorted((luminance(a), luminance(b)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for colour in (*plot_style.SERIES, *plot_style.NEUTRAL, *plot_style.STEPS, plot_style.INK, plot_style.MUTED):
        assert contrast(colour, plot_style.CARD) >= 2.4, colour
        assert contrast(plot_style.DARK[colour], plot_style.DARK[plot_style.CARD]) >= 2.4, colour


def test_between_processes_the_renderings_travel_and_not_the_figure():
    with plot_style.drawing():
        picture = plot_style.Sheet("Title", "how to read it", "footer", 1.0).finish("name", "title", "caption", "alt")
    again = pickle.loads(pickle.dumps(picture))
    assert again == picture
    assert again.figure is None
    assert picture.figure is not None


def test_labels_of_the_bytes_keep_off_the_levels_and_steps_of_others():
    source = report_samples.sample_summary()
    for place, row in enumerate(row for row in source["rows"] if row["bytes_up"]):
        row["bytes_up"] *= (1.0, 0.3, 4.0, 0.1)[place % 4]
        row["bytes_down"] *= (1.0, 0.5, 3.0, 0.2)[place % 4]
    with plot_style.drawing():
        axes = bytes_against_accuracy(summary_from_json(source)).figure.axes[0]
        boxes = [text.get_window_extent() for text in axes.texts if text.get_bbox_patch() is not None]
        levels = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
        heights = [axes.transData.transform((1.0, level))[1] for level in levels]
    assert len(boxes) > 8
    assert len(levels) == 2
    assert not [(box, y) for box in boxes for y in heights if box.y0 < y < box.y1]
