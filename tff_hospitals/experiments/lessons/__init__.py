"""Lessons of federated learning, each an experiment that is run anew: figures, a page, and questions with answers."""

from __future__ import annotations

from tff_hospitals.experiments.lessons.lesson import LESSONS, Lesson, Question, Told, write

__all__ = ["LESSONS", "Lesson", "Question", "Told", "write"]
