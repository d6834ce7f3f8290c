"""A stop and a resume at once, on two connections: the stop is seen or it stands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.commands import issue_command
from pipeline.operator import create_wallet
from pipeline.stopping import resume
from shared.db import Database, role_url
from shared.job import UsageError
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor
from tests.pipeline.live_wallet import later


def test_a_stop_that_is_being_written_is_waited_for_and_not_lifted_unseen(
    database_for: DatabaseFor, settings: Settings, tmp_path: Path
) -> None:
    """From another machine, so that no file tells of it: numbered before the resume, committed after it, it would be
    lifted by a resume that never saw it."""
    cli, other = database_for("cli"), Database(role_url(settings, "cli"))
    create_wallet(cli, settings, NOON, "raced", "test", ["AAA/USDT"], 100.0)
    with ThreadPoolExecutor(1) as pool, closing(other):
        with cli.transaction():
            issue_command(cli, NOON, "raced", "halt", "the venue is down", "cli:ben")
            resuming = pool.submit(resume, other, tmp_path, later(1), "raced", "", "cli:anna")
            with pytest.raises(FutureTimeout):
                resuming.result(timeout=0.3)
        with pytest.raises(UsageError, match="raced was stopped by halt: the venue is down"):
            resuming.result(timeout=20)
    (wallet,) = cli.fetch("SELECT mandate_of(id, %(now)s) AS mandate FROM wallets", {"now": later(60)})
    assert wallet["mandate"] == "halt"
