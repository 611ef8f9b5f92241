"""Rows become members and rows again, whatever the columns are called and hold."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

import pyarrow as pa
import pytest
from datasets import Array2D, ClassLabel, Features, Image, Json, LargeList, List, Value
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.streams.columns import member_name, members_to_row, row_to_members
from pipeline.streams.names import split_name, unsafe

text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
int64 = st.integers(-(2**63), 2**63 - 1)
UTC = datetime.UTC

KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Value("string"), text),
    (Value("large_string"), text),
    (Value("binary"), st.binary(max_size=20)),
    (Value("bool"), st.booleans()),
    (Value("int64"), int64),
    (Value("uint8"), st.integers(0, 255)),
    (Value("float64"), st.floats()),
    (Value("float32"), st.floats(width=32)),
    (Value("float16"), st.floats(width=16)),
    (Value("timestamp[us]"), st.datetimes()),
    (Value("timestamp[us, tz=Europe/Paris]"), st.datetimes(datetime.datetime(1850, 1, 1), timezones=st.just(UTC))),
    (Value("date32"), st.dates()),
    (Value("time64[us]"), st.times()),
    (Value("duration[us]"), st.timedeltas(-datetime.timedelta(10**6), datetime.timedelta(10**6))),
    (Value("decimal128(20, 4)"), st.decimals(-(10**10), 10**10, places=4)),
    (ClassLabel(names=["a", "b", "c"]), st.integers(0, 2)),
    (List(Value("string")), st.lists(st.none() | text, max_size=3)),
    (LargeList(Value("binary")), st.lists(st.none() | st.binary(max_size=5), max_size=3)),
    (List(List(Value("float32"))), st.lists(st.lists(st.floats(width=32), max_size=3), max_size=3)),
    (List(Value("int8"), length=2), st.lists(st.integers(-128, 127), min_size=2, max_size=2)),
    (
        {"x.y": Value("binary"), "z": List({"t": Value("timestamp[ms]")})},
        st.fixed_dictionaries(
            {"x.y": st.none() | st.binary(max_size=5), "z": st.lists(st.fixed_dictionaries({"t": st.none()}))}
        ),
    ),
    (Image(), st.fixed_dictionaries({"bytes": st.binary(max_size=9), "path": st.none() | text})),
    (Array2D((2, 2), "int32"), st.just([[1, 2], [3, 4]])),
    (Json(), st.sampled_from(['{"a": [1, null]}', "null", '"x"'])),
]
names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
columns = st.dictionaries(names, st.sampled_from(range(len(KINDS))), max_size=6)


@st.composite
def rows(draw: st.DrawFn) -> tuple[dict[str, Any], Features, str | None]:
    kinds = draw(columns)
    features = Features({"the image": Image()} | {name: KINDS[k][0] for name, k in kinds.items()})
    row = {name: draw(st.none() | KINDS[k][1]) for name, k in kinds.items() if draw(st.integers(0, 9))}
    classes = [name for name, k in kinds.items() if isinstance(KINDS[k][0], ClassLabel)]
    return row, features, draw(st.none() | st.sampled_from(classes)) if classes else None


def same(a: Any, b: Any) -> bool:
    """Equal, with nan equal to itself and 0.0 different from -0.0."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return repr(a) == repr(b)
    return type(a) is type(b) and a == b


@given(rows())
def test_members_hold_all_of_a_row(made: tuple[dict[str, Any], Features, str | None]) -> None:
    made_row, features, label = made
    schema = pa.schema([features.arrow_schema.field(name) for name in made_row])
    (row,) = pa.Table.from_pylist([made_row], schema=schema).to_pylist() if made_row else [{}]
    members = row_to_members({**row, "the image": None}, features.arrow_schema, "the image", label)
    assert len(members) == len(row)
    assert same(members_to_row(members, features.arrow_schema, "the image", label), row)
    for name, content in members.items():
        if name.endswith(".json"):
            json.loads(content, parse_constant=lambda c: pytest.fail(f"{c} is not valid JSON"))


@given(rows())
def test_member_names_survive_a_tar(made: tuple[dict[str, Any], Features, str | None]) -> None:
    row, features, label = made
    for name in row_to_members(row, features.arrow_schema, "the image", label):
        assert split_name(f"d/1.5.{name}", "auto") == ("d/1.5", name)
        assert split_name(f"k.{name}", "first") == ("k", name)
        assert not unsafe(name)


@given(st.lists(st.text(alphabet="x_25edopl.é", max_size=8), unique=True, max_size=30))
def test_no_two_columns_share_a_name(names: list[str]) -> None:
    assert len({member_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("column", "name"),
    [("caption", "caption"), ("image_id", "image_id"), ("a.b", "ax_2e_b"), ("1st", "x_31_st"), ("", "x__"),
     ("x__", "x_78___"), ("doppel", "x_64_oppel"), ("doppelgänger", "doppelgx_e4_nger")],
)  # fmt: skip
def test_ordinary_names_stay_and_odd_ones_are_spelt_out(column: str, name: str) -> None:
    assert member_name(column) == name


def test_members_are_what_people_expect() -> None:
    features = Features(
        {"i": Image(), "label": ClassLabel(names=["a", "b"]), "text": Value("string"), "raw": Value("binary"),
         "none": Value("string"), "empty": Value("string"), "when": Value("timestamp[s]"), "n": Value("float64"),
         "missing": Value("string")}
    )  # fmt: skip
    row = {"i": None, "label": 1, "text": "é", "raw": b"\xff", "none": None, "empty": "",
           "when": datetime.datetime(2020, 1, 2, 3, 4), "n": math.nan}  # fmt: skip
    assert row_to_members(row, features.arrow_schema, "i", "label") == {
        "cls": b"1", "text.txt": "é".encode(), "raw.bin": b"\xff", "none.json": b"null", "empty.txt": b"",
        "when.json": b'"2020-01-02 03:04:00"', "n.json": b'"nan"',
    }  # fmt: skip


def test_nanoseconds_and_old_time_zones_are_kept() -> None:
    features = Features({"i": Image(), "ns": Value("timestamp[ns]"), "d": Value("decimal128(5, 2)")})
    table = pa.table({"ns": pa.array([1577836800000000001], pa.timestamp("ns")), "d": [decimal.Decimal("1.10")]})
    (row,) = table.to_pylist()
    schema = features.arrow_schema
    back = members_to_row(row_to_members(row, schema, "i", None), schema, "i", None)
    assert back == row
    assert back["ns"].nanosecond == 1
    assert str(back["d"]) == "1.10"


def test_a_type_that_cannot_be_carried_is_named() -> None:
    odd = pa.schema([("m", pa.month_day_nano_interval())])
    with pytest.raises(UserError, match=r"column 'm': values of type month_day_nano_interval"):
        row_to_members({"m": (1, 2, 3)}, odd, "i", None)
