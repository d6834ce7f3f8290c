"""A test here may share one database that is rolled back: tests/policy/rolled_back.py."""

import pytest

from meta_controller import llm_record
from shared.db import Database
from tests.policy.rolled_back import (
    OneDatabase,
    database_for,
    one_database,
    own_database,
    rolled_back,
    settings,
    takes_part,
)

__all__ = ["database_for", "one_database", "own_database", "rolled_back", "settings"]


@pytest.fixture(autouse=True)
def only_its_own_transactions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a test is rolled back is no transaction of the job's, in which no call of an LLM may be opened."""
    if not takes_part(request):
        return
    one: OneDatabase = request.getfixturevalue("one_database")
    require = llm_record._require_no_transaction

    def of_the_job(database: Database) -> None:
        if one.connection.depth:
            require(database)

    monkeypatch.setattr(llm_record, "_require_no_transaction", of_the_job)
