"""What a file holds that is called .csv and is none: an archive, a spreadsheet, a web page that a download left.

>>> foreign(b"<!DOCTYPE html><title>403</title>", "north.csv")[0], foreign(b"age,sex", "north.csv")
('a web page', None)
"""

from __future__ import annotations

import pathlib

_AGAIN = "download or export the table again"
_BYTES = (
    (b"\x1f\x8b", "a packed file (gzip)", "unpack it first"),
    (
        b"PK\x03\x04",
        "a zip archive or an Excel file",
        "rename it to {stem}.xlsx if it is Excel, else unpack it",
    ),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", "save it as .xlsx or CSV"),
    (b"PAR1", "a Parquet file", "rename it to {stem}.parquet"),
    (b"ARROW1", "a Feather file", "save the table as Parquet or CSV"),
    (b"%PDF-", "a PDF", "export the table as CSV"),
)
_TEXTS = (  # in small letters
    (b"version https://git-lfs", "the pointer of a file that Git LFS keeps", "fetch the file itself (git lfs pull)"),
    (b"<!doctype", "a web page", f"{_AGAIN}: pages like this often say that a login has ended"),
    (b"<html", "a web page", f"{_AGAIN}: pages like this often say that a login has ended"),
    (b"<?xml", "XML", "export the table as CSV"),
    (b"[{", "JSON", "export the table as CSV"),
    (b'{"', "JSON", "export the table as CSV"),
)


def foreign(content: bytes, name: str) -> tuple[str, str] | None:
    """What the bytes of a file are instead of text with delimiters, and what to do about it; None: nothing known."""
    start = content[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kinds = [one for one in _BYTES if content.startswith(one[0]) and not _is_a_name(one[0], content)]
    kinds += [one for one in _TEXTS if start.startswith(one[0])]
    return None if not kinds else (kinds[0][1], kinds[0][2].format(stem=pathlib.Path(name).stem))


def _is_a_name(mark: bytes, content: bytes) -> bool:
    """Whether the mark is the header of a column, such as PAR1: text follows."""
    return mark.isalnum() and b"\0" not in content
