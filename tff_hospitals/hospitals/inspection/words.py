"""Words as people write them into tables: for missing, for yes and no, for women and men, and names of columns."""

from __future__ import annotations

import re
import unicodedata

from tff_hospitals.hospitals.schema import DEFAULT_MISSING

# Compared without regard to case. "none" is not among them: it is a level of many columns.
MISSING = {word.casefold() for word in DEFAULT_MISSING} | {
    *("n/a", "n.a.", "#n/a", "#na", "#null!", "#value!", "#div/0!", "-", "--", ".", "..", "*", "<na>"),
    *("missing", "unknown", "unk", "not known", "not done", "not recorded", "nd", "nr", "n.d.", "nil"),
    *("k.a.", "k. a.", "keine angabe", "unbekannt", "fehlt", "fehlend", "inconnu", "non connu", "desconocido"),
}
_PAIRS = (
    (
        {"no", "n", "false", "f", "0", "nein", "non", "não", "nao", "neg", "negative", "absent"}
        | {"nee", "nej", "nei", "ei", "nie", "ne", "нет", "hayır", "όχι"},
        {"yes", "y", "true", "t", "1", "ja", "j", "oui", "o", "si", "sí", "sì", "sim", "pos", "positive", "present"}
        | {"kyllä", "tak", "ano", "da", "да", "evet", "ναι"},
    ),
    (
        {"f", "female", "w", "weiblich", "woman", "frau", "femme", "femenino", "mujer"},
        {"m", "male", "männlich", "maennlich", "man", "mann", "homme", "h", "masculino", "hombre"},
    ),
)
# Numbers that stand for missing in many exports: all others must lie far from them.
SENTINELS = (-1.0, -9.0, -99.0, -999.0, -9999.0, 777.0, 888.0, 999.0, 9999.0, 99999.0)

# Cells of a last line that sums up the others.
TOTALS = {
    *("total", "totals", "grandtotal", "subtotal", "sum", "sums", "mean", "average", "median", "count"),
    *("gesamt", "summe", "mittelwert", "durchschnitt", "anzahl", "somme", "moyenne", "suma", "totale"),
}

HOSPITAL = re.compile(r"(hospital|site|cent(re|er)|clinic|klinik|institution|facility|provider)(id|name|code|nr|no)?")
PATIENT = re.compile(r"(patient|pat|subject|person|participant|mrn|pid)(id|nr|no|number|code|key)?")
RECORD = re.compile(r"(id|record|recordid|row|rowid|index|case|caseid|encounter|encounterid|visitid|unnamed0|nr)")
TARGET = re.compile(
    r"(target|label|outcome|class|y|died|dead|death|mortality|event|disease|diagnosis|readmitted|relapse|survived|ill)"
)


def plain(header: str) -> str:
    """A header without case, marks and spaces, to compare it.

    >>> plain(" Patient-ID "), plain("Größe_cm")
    ('patientid', 'grössecm')
    """
    folded = unicodedata.normalize("NFKC", header).casefold()
    return "".join(letter for letter in folded if letter.isalnum())


def pair_of(words: set[str]) -> tuple[set[str], set[str]] | None:
    """The two sets of synonyms that words (without case) are divided between, or None."""
    for first, second in _PAIRS:
        if words <= first | second and words & first and words & second and not words & first & second:
            return words & first, words & second
    return None
