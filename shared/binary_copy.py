"""Rows as the bytes of PostgreSQL's binary COPY, made by numpy: no Python object a row.

The format (PostgreSQL's documentation of COPY, "Binary Format"): a header; each row as the number of its fields
and each field as its length and its bytes, big-endian; a trailer. NULL is length -1 without bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, LiteralString

import numpy as np
from numpy.typing import NDArray

from shared.clock import from_unix
from shared.db import Database
from shared.market_data import MICROSECONDS, POSTGRES_EPOCH_S
from shared.rows import IntArray

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, no flags, no extension
TRAILER = b"\xff\xff"
NULL_LENGTH = -1


def new_rows(count: int, columns: Mapping[str, Any]) -> NDArray[Any]:
    """``count`` rows of a COPY's columns in its order, each by its name to be filled in.

    ``columns``: the big-endian numpy type of each; None for one that is NULL in all of these rows.
    """
    fields: list[tuple[str, Any]] = [("fields", ">i2")]
    for name, kind in columns.items():
        fields.append((_length(name), ">i4"))
        if kind is not None:
            fields.append((name, kind))
    rows = np.empty(count, fields)
    rows["fields"] = len(columns)
    for name, kind in columns.items():
        rows[_length(name)] = NULL_LENGTH if kind is None else rows.dtype[name].itemsize
    return rows


def _length(name: str) -> str:
    return f"{name}_length"


def encode(*parts: NDArray[Any]) -> bytes:
    """The whole input of one COPY, of rows made by ``new_rows``."""
    return b"".join((HEADER, *(rows.tobytes() for rows in parts), TRAILER))


def copy_in(database: Database, query: LiteralString, data: bytes) -> None:
    """Sends the input of a COPY … FROM STDIN (FORMAT binary); the DatabaseError of a row that is refused."""
    with database.connection.cursor() as cursor, cursor.copy(query) as copy:
        copy.write(data)


def sent_times(unix_s: IntArray) -> IntArray:
    """Unix seconds as a timestamptz travels: microseconds since 2000."""
    return (unix_s - POSTGRES_EPOCH_S) * MICROSECONDS


def sent_time(at: datetime) -> int:
    """The same of one moment, to the microsecond."""
    return (at - from_unix(POSTGRES_EPOCH_S)) // timedelta(microseconds=1)
