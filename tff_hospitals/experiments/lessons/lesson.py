"""What a lesson is: an experiment over seeds, its figures, and a page whose numbers come from the run."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tff_hospitals.foundations import files
from tff_hospitals.foundations.validation import counted
from tff_hospitals.reports.pages import figures, render
from tff_hospitals.reports.plot_style import Picture
from tff_hospitals.reports.plots import write_plots


@dataclasses.dataclass(frozen=True)
class Question:
    """A question to a reader, and its answer."""

    asked: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Told:
    """What a lesson found.

    Attributes:
      numbers: what lesson.json holds beside name and seeds.
      paragraphs: the page's text, with the numbers in it.
      tables: (caption, heads, rows) of texts.
      pictures: drawn figures.
      questions: three of them.
    """

    numbers: Mapping[str, Any]
    paragraphs: Sequence[str]
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]
    pictures: Sequence[Picture]
    questions: Sequence[Question]


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A lesson.

    Attributes:
      name: as the command says it.
      title: of its page.
      question: that it answers, one sentence.
      module: that has `run(seeds, on_step) -> Told`; imported when the lesson is run.
    """

    name: str
    title: str
    question: str
    module: str

    def run(self, seeds: Sequence[int], on_step: Callable[[str], None] = lambda words: None) -> Told:
        """Runs the experiment.

        Args:
          seeds: at least one.
          on_step: called with what is being done.
        """
        told: Told = importlib.import_module(self.module).run(seeds, on_step)
        return told


_HERE = __name__.rpartition(".")[0]
LESSONS = {
    name: Lesson(name, title, question, f"{_HERE}.{name}")
    for name, title, question in (
        (
            "missing_class",
            "What a hospital has never seen",
            "What does a model say about a disease that none of its hospital's patients had?",
        ),
        ("local_work", "Local work against drift", "How much may hospitals train between two rounds?"),
        (
            "convergence",
            "When to stop",
            "How many rounds are enough, and what does stopping early or late cost?",
        ),
        ("tuning", "What the knobs do", "Which settings of client and server matter, and how do they hang together?"),
        ("bytes", "Sending less", "How few bytes are enough, and does the formula for them hold?"),
        ("attacks", "A patient out of an update", "What does who sees an update know of the patient behind it?"),
        ("trust", "Central against local noise", "What does it cost to trust nobody, at the same epsilon?"),
        (
            "clip_and_noise",
            "Clipping and noise",
            "What does clipping do to records far out, and noise to small hospitals?",
        ),
        ("four_hospitals", "Four hospitals cannot hide one", "What does it cost to hide a whole hospital?"),
    )
}
"""Every lesson by its name, in the order in which they are best read."""


def write(lesson: Lesson, told: Told, seeds: Sequence[int], folder: pathlib.Path) -> None:
    """Writes lesson.json, lesson.html, page.md and the plots.

    Args:
      lesson: which.
      told: what it found.
      seeds: over which.
      folder: the run directory.
    """
    write_plots(folder, told.pictures)
    values = {"schema_version": 1, "lesson": lesson.name, "seeds": list(seeds), **told.numbers}
    files.write_json(folder / "lesson.json", files.plain(values))
    files.write_bytes(folder / "page.md", markdown(lesson, told, seeds).encode())
    page = render(
        "lesson.html",
        title=lesson.title,
        badges=[{"text": counted(len(seeds), "seed"), "caution": len(seeds) < 2}],
        question=lesson.question,
        paragraphs=told.paragraphs,
        tables=[{"caption": caption, "columns": heads, "rows": rows} for caption, heads, rows in told.tables],
        figures=figures(told.pictures, files=True),
        questions=told.questions,
    )
    files.write_bytes(folder / "lesson.html", page.encode())


def markdown(lesson: Lesson, told: Told, seeds: Sequence[int]) -> str:
    """The page for docs/lessons."""
    lines = [f"# {lesson.title}", "", lesson.question, ""]
    for text in told.paragraphs:
        lines += [text, ""]
    for caption, heads, rows in told.tables:
        lines += [f"{caption}:", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    for picture in told.pictures:
        lines += [f"![{picture.alt}]({picture.name}.png)", "", f"*{picture.caption}*", ""]
    lines += ["## Questions", ""]
    for place, one in enumerate(told.questions, start=1):
        lines += [f"{place}. **{one.asked}** {one.answer}", ""]
    numbers = ",".join(map(str, seeds))
    lines += [
        "Made by",
        "",
        f"    tff-hospitals lesson {lesson.name} --seeds={numbers} --run_dir=lessons/{lesson.name}",
    ]
    return "\n".join(lines) + "\n"
