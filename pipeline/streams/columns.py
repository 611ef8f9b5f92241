"""Columns of a Hugging Face row as members of a sample, and back again without loss.

The label becomes `cls`, a string `{column}.txt`, binary `{column}.bin`, everything else `{column}.json`. A null
of any type is the JSON `null` in `{column}.json`, so that it differs from an empty value and from a column that
is not there. Inside JSON, binary is base64, times are ISO text (in UTC where they have a zone), durations are
counts of their unit, decimals are text and floats that JSON lacks are "nan", "inf" and "-inf". The type decides
how a value is written, so reading needs the same features.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError

LABEL_MEMBER = "cls"
"""The member that holds the label."""

HubRow = dict[str, Any]
"""A row as `pyarrow.Table.to_pylist` gives it: nothing decoded, images as `{"bytes", "path"}`."""


def row_to_members(row: Mapping[str, Any], schema: Any, image: str, label: str | None) -> dict[str, bytes]:
    """Turns every column but `image` into members.

    `schema` is the `pyarrow.Schema` of a `datasets.Features`, which takes it a while to make; the row may lack some of
    its columns. Raises `UserError` for a type that cannot be carried.
    """
    members: dict[str, bytes] = {}
    for field in schema:
        column = field.name
        if column == image or column not in row:
            continue
        value, suffix = row[column], _suffix(field.type)
        if value is None:
            members[f"{member_name(column)}.json"] = b"null"
        elif column == label:
            members[LABEL_MEMBER] = str(int(value)).encode()
        elif suffix == "txt":
            members[f"{member_name(column)}.txt"] = value.encode()
        elif suffix == "bin":
            members[f"{member_name(column)}.bin"] = bytes(value)
        else:
            text = json.dumps(_plain(value, field.type, column), ensure_ascii=False, allow_nan=False)
            members[f"{member_name(column)}.json"] = text.encode()
    return members


def members_to_row(members: Mapping[str, bytes], schema: Any, image: str, label: str | None) -> HubRow:
    """The inverse of `row_to_members`: a column without a member is not in the row."""
    row: HubRow = {}
    for field in schema:
        column, name = field.name, member_name(field.name)
        if column == image:
            continue
        if column == label and LABEL_MEMBER in members:
            row[column] = int(members[LABEL_MEMBER])
        elif f"{name}.txt" in members:
            row[column] = members[f"{name}.txt"].decode()
        elif f"{name}.bin" in members:
            row[column] = members[f"{name}.bin"]
        elif f"{name}.json" in members:
            row[column] = _value(json.loads(members[f"{name}.json"]), field.type, column)
    return row


def member_name(column: str) -> str:
    """The column's name as one word of ASCII letters, digits and `_`, different for every column.

    It begins with a letter. A dot, a slash or a leading digit would move the end of the key in a tar. Such characters
    become `x_HEX_`. The same happens to an `x` that looks like the beginning of one, and to the `d` of `doppel`, the
    name of our own member.
    """
    if not column:
        return "x__"
    pattern = r"[^A-Za-z0-9_]|^[0-9_]|x(?=_[0-9a-f]*_)|^d(?=oppel$)"
    return re.sub(pattern, lambda m: f"x_{ord(m[0]):x}_", column)


def _suffix(kind: Any) -> str:
    from pyarrow import types

    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "txt"
    return "bin" if _is_binary(kind) else "json"


def _plain(value: Any, kind: Any, column: str) -> Any:
    """A value of Arrow type `kind` as JSON has it."""
    import pyarrow as pa
    from pyarrow import types

    if value is None:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(value, kind.storage_type, column)
    if types.is_struct(kind):
        return {field.name: _plain(value.get(field.name), field.type, column) for field in kind}
    if _is_list(kind):
        return [_plain(item, kind.value_type, column) for item in value]
    if _is_binary(kind):
        return base64.b64encode(value).decode()
    if types.is_floating(kind):
        return float(value) if math.isfinite(value) else str(float(value))
    if types.is_decimal(kind):
        return str(value)
    if types.is_duration(kind):
        return pa.scalar(value, type=kind).cast(pa.int64()).as_py()
    if types.is_time(kind):
        return value.isoformat()
    if types.is_timestamp(kind) or types.is_date(kind):
        return pa.scalar(value, type=kind).cast(_without_zone(kind)).cast(pa.string()).as_py()
    if types.is_boolean(kind) or types.is_integer(kind) or _suffix(kind) == "txt":
        return value
    raise UserError(f"column {column!r}: values of type {kind} cannot be carried")


def _value(plain: Any, kind: Any, column: str) -> Any:
    """The inverse of `_plain`. Raises `ValueError`, `TypeError` or `ArithmeticError` for what that doesn't give."""
    import pyarrow as pa
    from pyarrow import types

    if plain is None:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return _value(plain, kind.storage_type, column)
    if types.is_struct(kind):
        if not isinstance(plain, dict):
            raise ValueError(f"column {column!r}: an object is expected, found {plain!r}")
        return {field.name: _value(plain.get(field.name), field.type, column) for field in kind}
    if _is_list(kind):
        if not isinstance(plain, list):
            raise ValueError(f"column {column!r}: a list is expected, found {plain!r}")
        return [_value(item, kind.value_type, column) for item in plain]
    if _is_binary(kind):
        return base64.b64decode(plain)
    if types.is_floating(kind):
        return float(plain)
    if types.is_decimal(kind):
        return decimal.Decimal(plain)
    if types.is_duration(kind):
        return pa.scalar(plain, type=pa.int64()).cast(kind).as_py()
    if types.is_time(kind):
        return datetime.time.fromisoformat(plain)
    if types.is_timestamp(kind) or types.is_date(kind):
        return pa.scalar(plain).cast(_without_zone(kind)).cast(kind).as_py()
    return plain


def _without_zone(kind: Any) -> Any:
    import pyarrow as pa

    return pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
