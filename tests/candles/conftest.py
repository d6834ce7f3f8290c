"""A test here may share one database that is rolled back: tests/policy/rolled_back.py."""

from tests.policy.rolled_back import database_for, one_database, own_database, rolled_back, settings

__all__ = ["database_for", "one_database", "own_database", "rolled_back", "settings"]
