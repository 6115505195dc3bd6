"""Reads CSV files: encoding, delimiter, quotes; whatever a spreadsheet or an export may have left in them."""

from __future__ import annotations

import codecs
import collections
import contextlib
import csv
import io
import pathlib
from collections.abc import Iterator, Sequence

from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.file_signatures import foreign
from tff_hospitals.hospitals.tables import Problems, Sheet, lines_above, plain_text


def read_csv(path: pathlib.Path, written: FileFormat, problems: Problems) -> Sheet | None:
    """Header and cells of a CSV file; notes problems and returns None when it cannot be used."""
    text = _decoded(path, written, problems)
    if text is None:
        return None
    delimiter = written.delimiter
    stated = stated_delimiter(text)
    if stated not in (None, delimiter):
        remedy = f"write delimiter: {stated!r} in the schema (under files: {path.name} if it is this file alone)"
        bound = f"names another delimiter than the schema's {delimiter!r}"
        problems.add(path.name, f"sep={stated}", bound, remedy, place="line 1")
        return None
    rows: list[list[str]] = []
    lines: list[int] = []
    start = 1
    try:
        with cells_of_any_length():
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            for row in reader:
                spreadsheet = start == 1 and stated is not None  # Excel's first line says how to read, it is no header
                if any(cell.strip() for cell in row) and not spreadsheet:  # blank lines say nothing
                    rows.append(row)
                    lines.append(start)
                start = reader.line_num + 1
    except csv.Error as error:
        problems.add(path.name, f"line {start}: {error}", "must be a readable CSV file", "check its quotes")
        return None
    if not rows:
        problems.add(path.name, "no lines", "must have a header and at least one record", "remove the file or fill it")
        return None
    header = [plain_text(cell) for cell in rows[0]]
    width = len(header)
    usual, _ = collections.Counter(map(len, rows)).most_common(1)[0]
    if width <= 2 and usual > width + 1:  # a title, not a header
        first = next(line for row, line in zip(rows, lines) if len(row) == usual)
        bound, remedy = lines_above(usual, f"line {first}")
        problems.add(path.name, f"{width} cells", bound, remedy, place=f"line {lines[0]}")
        return None
    kept = [
        number
        for number in range(1, len(rows))
        if _is_record(rows[number], header, path.name, lines[number], number == len(rows) - 1, problems)
    ]

    def column(at: int) -> list[str]:
        return [plain_text(rows[number][at]) for number in kept]

    return Sheet(header, column, [f"line {lines[number]}" for number in kept], "header only" if len(rows) == 1 else "")


def _is_record(row: Sequence[str], header: Sequence[str], file: str, line: int, last: bool, problems: Problems) -> bool:
    """Whether a line has a cell for each column, and is not the header again (files that were put together)."""
    width = len(header)
    if len(row) != width:
        remedy = "check separators and quotes; numbers and text that hold the separator need quotes"
        if last and len(row) < width:
            remedy = "remove the line if it is no record; if the file was cut off, write it again"
        problems.add(file, f"{len(row)} cells", f"must have {width} cells, as the header", remedy, place=f"line {line}")
        return False
    if width > 1 and row[0].strip() == header[0] and [cell.strip() for cell in row] == header:
        problems.add(file, row[0], "is the header again, and no record", "remove the line", place=f"line {line}")
        return False
    return True


@contextlib.contextmanager
def cells_of_any_length() -> Iterator[None]:
    """The csv library's own limit of 128 KiB stops at long notes; in this block it does not."""
    largest = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(largest)


def stated_delimiter(text: str) -> str | None:
    """What Excel's first line "sep=;" names, where there is one.

    >>> stated_delimiter("sep=;\\r\\nage;ill"), stated_delimiter("age;ill")
    (';', None)
    """
    first = text.split("\n", 1)[0].rstrip("\r").strip('"')
    return first[4] if len(first) == 5 and first.lower().startswith("sep=") else None


def _decoded(path: pathlib.Path, written: FileFormat, problems: Problems) -> str | None:
    """The text of a file; bytes that its encoding does not know are named by their line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        problems.add(path.name, error.strerror, "must be a readable CSV file", "check its permissions")
        return None
    other = foreign(content, path.name)
    if other is not None:
        problems.add(path.name, other[0], "must be a CSV file", other[1])
        return None
    marked = content.startswith(codecs.BOM_UTF8)  # nothing else begins so
    encoding = "utf-8-sig" if marked or codecs.lookup(written.encoding).name == "utf-8" else written.encoding
    alone = f"in the schema (under files: {path.name} if it is this file alone)"
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        likely = likely_encoding(content)
        bound = f"must be {written.encoding.upper()} text"
        remedy = f"save the file in that encoding, or write encoding: {likely} {alone}"
        line = content[:start].count(b"\n") + 1
        problems.add(path.name, f"byte {start}", bound, remedy, place=f"line {line}")
        return None
    at = text.find("\0")
    if at >= 0:
        likely = likely_encoding(content)
        remedy = f"write encoding: {likely} {alone}" if at < 2 and likely != "utf-8" else "save the table again as CSV"
        bound = "holds a NUL byte, which text never does"
        problems.add(path.name, f"character {at}", bound, remedy, place=f"line {text.count(chr(10), 0, at) + 1}")
        return None
    return text


def likely_encoding(content: bytes) -> str:
    """The encoding that a file seems to have.

    >>> likely_encoding("ä".encode()), likely_encoding("ä".encode("cp1252")), likely_encoding("a".encode("utf-16-le"))
    ('utf-8', 'cp1252', 'utf-16-le')
    """
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # begins as UTF-16 does
        return "utf-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if content[:2].count(0) == 1:  # two bytes for each letter, without a mark that says so
        return "utf-16-le" if content[1] == 0 else "utf-16-be"
    for encoding in ("utf-8", "cp1252"):
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"
