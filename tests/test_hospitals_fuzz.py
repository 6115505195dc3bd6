"""Files that were damaged at random: read, or refused in words; never a traceback, never fewer records in silence."""

from __future__ import annotations

import random
import shutil

import odd_hospitals
import pytest
from odd_hospitals import STAY_BOUNDS, state_bounds
from own_tables import keep_key

from tff_hospitals.foundations.files import RecordError
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import load_dataset, own_data
from tff_hospitals.hospitals.inspection.draft import draft
from tff_hospitals.hospitals.inspection.readiness import readiness
from tff_hospitals.hospitals.inspection.roles import Roles
from tff_hospitals.hospitals.schema_files import read_schema

SAMPLE, WHOLE = 15, 500
INSERTED = (
    *(b"nan", b"-1", b"1e400", b"open", b"[1]", b"{a: b}", b"!!python/object:os.system", b"&a *a", b"null", b"%d"),
    *(b"\0", b'"', b"'", b"\n", b"\r", b",", b";", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"\x81", b"\xc3", b"=1+1"),
    *(b"1e308", b"-1e999", b"nan", b"inf", b"1,234", b"<5", b"<", b"> ", b"31.12.2020", b"0x10", b"1_0", b"%", b" "),
    *(
        "ä☃".encode(),
        "٣".encode(),
        "\u2028".encode(),
        "−5".encode(),
        b"sep=;\n",
        b"x" * 200_000,
        b"#N/A",
        b"--",
        b"]: {",
    ),
)


def damaged(content: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, end = sorted((draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)))
        kind = draw.randrange(9)
        if kind < 4:
            content = content[:at] + draw.choice(INSERTED) + content[at:]
        elif kind == 4:
            content = content[:at] + content[min(end, at + draw.choice((1, 20, 2000))) :]
        elif kind == 5:
            content = content[:at] + content[at : at + 300] * 2 + content[at + 300 :]
        elif kind == 6:
            content = content.replace(*draw.choice(((b",", b";"), (b"\n", b"\r"), (b".", b","), (b"\n", b"\n\n"))))
        elif kind == 7:  # every line after the first, or what stands before it
            head, mark, rest = content.partition(b"\n")
            whole = head + mark + rest
            more = (
                head + mark + rest.replace(mark, b"," + mark),
                b"Export\n\n" + whole,
                whole + whole,
                head + mark,
                rest,
            )
            content = draw.choice(more) if mark else content
        else:
            content = content[:at] + bytes(draw.randrange(256) for _ in range(4)) + content[at + 4 :]
        if not content:
            return content
    return content


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder of three hospitals with a whole schema."""
    folder = tmp_path_factory.mktemp("sound")
    odd_hospitals.write_stays(folder, hospitals=3)
    keep_key(folder)
    (folder / "schema.yaml").write_text(draft(folder, Roles()).text)
    state_bounds(folder / "schema.yaml", STAY_BOUNDS)
    load_dataset(folder)
    return folder


def unless_refused(call):
    """What a call returns, or None if it refused in words."""
    try:
        return call()
    except (InvalidInput, RecordError) as error:
        if "Remedy: " not in str(error):
            raise
        return None


@pytest.mark.parametrize("count", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_damaged_tables_are_read_or_refused(sound, tmp_path, count):
    draw = random.Random("damage")
    names = [path.name for path in sorted(sound.glob("*.csv"))]
    loaded = 0
    for number in range(count):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        path = folder / draw.choice(names)
        path.write_bytes(damaged(path.read_bytes(), draw))
        dataset = unless_refused(lambda folder=folder: load_dataset(folder))
        facts = readiness(folder, read_schema(folder / "schema.yaml"))
        # What loads is what the page counts, and what is refused is said there.
        assert bool(facts.open_points) is (dataset is None)
        if dataset is not None:
            loaded += 1
            counted = {one.hospital_id: one.rows for one in facts.hospitals}
            assert {h.hospital_id: h.train.records + h.test.records for h in dataset} == counted
        drafted = unless_refused(lambda folder=folder: draft(folder, Roles(target="died")))
        if drafted is not None:
            (folder / "schema.yaml").write_text(drafted.text)
            read_schema(folder / "schema.yaml", whole=False)
        shutil.rmtree(folder)
    assert 0 < loaded < count


@pytest.mark.parametrize("count", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_damaged_schemas_are_read_or_refused(sound, tmp_path, count):
    draw = random.Random("schemas")
    text = (sound / "schema.yaml").read_bytes()
    for _ in range(count):
        (tmp_path / "schema.yaml").write_bytes(damaged(text, draw))
        rules = unless_refused(lambda: read_schema(tmp_path / "schema.yaml"))
        if rules is not None:
            unless_refused(lambda rules=rules: own_data(sound, schema=rules))
