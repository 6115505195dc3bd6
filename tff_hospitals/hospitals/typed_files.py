"""Tables whose cells have types already (Parquet, Excel, data frames), as the text that a CSV file would hold.

Text stays as it is, and is read by the rules of the schema; a number is written with the schema's decimal mark.
"""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

import numpy as np

from tff_hospitals.hospitals.file_formats import FileFormat
from tff_hospitals.hospitals.tables import Problems, Sheet, lines_above, plain_text


def cell_text(value: Any, written: FileFormat) -> str:
    """A value as the cell of a CSV file would hold it; null and NaN as an empty cell.

    >>> (
    ...     cell_text(1.5, FileFormat(decimal=",")),
    ...     cell_text("1.5", FileFormat(decimal=",")),
    ...     cell_text(True, FileFormat()),
    ... )
    ('1,5', '1.5', 'true')
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        if value != value:
            return ""
        text = str(value)
        if written.decimal == ",":
            return (text[:-2] if text.endswith(".0") else text).replace(".", ",")
        return text
    return plain_text(str(value))


def read_parquet(path: pathlib.Path, written: FileFormat, problems: Problems) -> Sheet | None:
    """Header and cells of a Parquet file; notes problems and returns None when it cannot be used."""
    parquet = _library("pyarrow.parquet", "install a pyarrow that fits (numpy 1.26: pyarrow < 26)", path, problems)
    if parquet is None:
        return None
    try:
        table = parquet.ParquetFile(path)
        header = list(table.schema_arrow.names)
        rows = table.metadata.num_rows
    except Exception as error:  # pyarrow has many kinds of error, all of them mean the same
        _unreadable(path, error, "Parquet", problems)
        return None

    def column(at: int) -> list[str]:
        try:
            values = table.read(columns=[header[at]]).column(0).to_pylist()
        except Exception as error:  # as above
            _unreadable(path, error, "Parquet", problems)
            return [""] * rows
        return [cell_text(value, written) for value in values]

    return Sheet([plain_text(name) for name in header], column, _rows(rows), "" if rows else "no rows")


def read_excel(path: pathlib.Path, written: FileFormat, problems: Problems) -> Sheet | None:
    """Header and cells of a sheet of an Excel file; notes problems and returns None when it cannot be used."""
    excel = _library("openpyxl", "install it (pip install openpyxl)", path, problems)
    if excel is None:
        return None
    try:
        # Once for values and once for formulas: a formula that nobody computed looks like an empty cell.
        values, formulas = (
            {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
            for book in (excel.load_workbook(path, read_only=True, data_only=only) for only in (True, False))
        )
    except Exception as error:  # of zip, of XML, or the library's own: all of them mean the same
        _unreadable(path, error, "Excel", problems)
        return None
    filled = [title for title, rows in formulas.items() if any(cell is not None for row in rows for cell in row)]
    title = written.sheet or (filled[0] if len(filled) == 1 else "")
    if not filled or (title in values and title not in filled):
        problems.add(path.name, "no cells", "must have a header and at least one record", "remove the file or fill it")
        return None
    if title not in filled:
        bound = f"must name one of its sheets: {', '.join(filled)}"
        remedy = (
            f"keep one sheet, or write files: {{{path.name}: {{sheet: {filled[0]}}}}} in the schema (for a draft: "
            f"tff-hospitals inspect --sheet='{filled[0]}')"
        )
        problems.add(path.name, title or f"{len(filled)} sheets", bound, remedy)
        return None
    for number, (row, written_row) in enumerate(zip(values[title], formulas[title]), 1):
        for cell, formula in zip(row, written_row):
            if cell is None and formula is not None:
                bound, remedy = "is a formula without a value", "open the file in a spreadsheet, save it, and try again"
                problems.add(path.name, formula, bound, remedy, place=f"row {number}")
    texts = [[cell_text(cell, written) for cell in row] for row in values[title]]
    kept = [number for number, row in enumerate(texts) if any(row)]
    filled_cells = [sum(map(bool, texts[number])) for number in kept]
    usual = sorted(filled_cells)[len(kept) // 2] if kept else 0
    if kept and filled_cells[0] == 1 and usual > 2:
        first = kept[next(at for at, count in enumerate(filled_cells) if count >= usual)] + 1
        bound, remedy = lines_above(usual, f"row {first}")
        problems.add(path.name, "1 cell", bound, remedy, place=f"row {kept[0] + 1}")
        return None
    header = texts[kept[0]] if kept else []
    width = len(header)
    while width and not header[width - 1] and not any(cell for n in kept for cell in texts[n][width - 1 :]):
        width -= 1  # formatted cells that hold nothing

    def column(at: int) -> list[str]:
        return [texts[number][at] if at < len(texts[number]) else "" for number in kept[1:]]

    places = [f"row {number + 1}" for number in kept[1:]]
    return Sheet(header[:width], column, places, "" if places else "header only")


def frame_sheet(name: str, frame: Any, written: FileFormat, problems: Problems) -> Sheet | None:
    """Header and cells of a data frame (its index is not read)."""
    if not hasattr(frame, "columns") or not hasattr(frame, "iloc"):
        problems.add(name, type(frame).__name__, "must be a data frame", "give a pandas.DataFrame, or use from_arrays")
        return None

    def column(at: int) -> list[str]:
        return [cell_text(value, written) for value in frame.iloc[:, at].tolist()]

    header = [plain_text(str(one)) for one in frame.columns]
    return Sheet(header, column, _rows(len(frame)), "" if len(frame) else "no rows")


def _rows(count: int) -> list[str]:
    return [f"row {row}" for row in range(1, count + 1)]


def _library(module: str, remedy: str, path: pathlib.Path, problems: Problems) -> Any:
    """An optional module, or None where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        bound = f"needs {module.split('.')[0]}, which cannot be imported"
        problems.add(path.name, str(error), bound, f"{remedy}, or save the table as CSV")
        return None


def _unreadable(path: pathlib.Path, error: Exception, kind: str, problems: Problems) -> None:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    problems.add(path.name, text, f"must be a readable {kind} file", "write it again, or save the table as CSV")
