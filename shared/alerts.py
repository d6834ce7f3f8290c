"""What a person should look at, as rows: one a key and day, however often it is raised."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from shared.db import Database, load_queries

Severity = Literal["info", "warning", "critical"]


def raise_alert(database: Database, at: datetime, severity: Severity, key: str, message: str) -> None:
    database.execute(
        load_queries("shared")["raise_alert"],
        {"severity": severity, "key": key, "message": message, "day": at.date(), "recorded_at": at},
    )
