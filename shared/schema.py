"""Brings a database to the schema of sql/: tables, roles, passwords. The owner's work, never a job's."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import time
from typing import LiteralString

from psycopg import sql
from psycopg.errors import InternalError_

from shared.db import Connection, Database, DatabaseUnavailable, connect, embedded_server, owner_url, role_url
from shared.errors import SextantError
from shared.settings import LAYERS, PROJECT, Settings, SettingsError, load_settings

SCHEMA_LOCK = 7_305_001  # one at a time: CREATE OR REPLACE on the same object by two sessions fails


class OtherSchema(SextantError):
    """The database was made by another version of this program: its tables are not what this one needs."""


def apply_schema(connection: Connection, passwords: dict[str, str]) -> None:
    """Applies 000_init.sql and roles.sql and sets the roles' passwords, in one transaction.

    OtherSchema when another 000_init.sql made the database: what is there would silently stay as it is.
    """
    tables, roles = ((PROJECT / "sql" / name).read_text(encoding="utf-8") for name in ("000_init.sql", "roles.sql"))
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        connection.execute("SET LOCAL client_min_messages TO warning")  # "already exists, skipping" is no news
        _refuse_other(connection, schema_sha256(tables))
        connection.execute(tables)
        connection.execute("UPDATE installation SET schema_sha256 = %s", (schema_sha256(tables),))
        connection.execute(roles)
        for role, password in passwords.items():
            _set_password(connection, role, password)


def schema_sha256(text: str) -> str:
    """Of SQL without its comments, blanks and line breaks: they make no other tables."""
    return hashlib.sha256(" ".join(re.sub(r"--.*", "", text).split()).encode()).hexdigest()


def _refuse_other(connection: Connection, sha256: str) -> None:
    """NULL is no other: 000_init.sql alone was applied (infra/compose.yml), and this is the first look at it."""
    if not _exists(connection, "SELECT FROM pg_tables WHERE schemaname = 'public' AND tablename = 'installation'"):
        return
    of_this = """SELECT FROM installation i WHERE to_jsonb(i) ? 'schema_sha256'
                 AND coalesce(to_jsonb(i) ->> 'schema_sha256', %s) = %s"""
    if not _exists(connection, of_this, sha256, sha256):
        raise OtherSchema(
            f"database {connection.info.dbname} was made by another version of Sextant and lacks what this one needs. "
            "`make db-reset` makes it anew and loses everything in it (on a server of your own: drop the database and "
            "run `make db-apply-schema-host`). To keep it, give this version another SEXTANT_HOME, or another DB_NAME"
        )


def _set_password(connection: Connection, role: str, password: str) -> None:
    """Roles belong to the whole server: another database's schema, applied at this moment, may be at the same row."""
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
    for patience_s in (0.05, 0.2, 0.5, None):
        try:
            with connection.transaction():
                connection.execute(statement)
            return
        except InternalError_:  # "tuple concurrently updated"
            if patience_s is None:
                raise
            time.sleep(patience_s)


def role_passwords(settings: Settings) -> dict[str, str]:
    """Each layer's password: from DB_PASSWORD_<LAYER>, else made once and kept under SEXTANT_HOME/secrets."""
    from psycopg.conninfo import conninfo_to_dict

    return {f"sextant_{layer}": str(conninfo_to_dict(role_url(settings, layer))["password"]) for layer in LAYERS}


def bring_up(settings: Settings) -> str:
    """Starts the embedded server if there is none of the user's own, applies the schema; returns the owner's URL."""
    if not settings.external_database:
        _create_owner_and_database(settings)
    url = owner_url(settings)
    connection = connect(url)
    try:
        apply_schema(connection, role_passwords(settings))
    finally:
        connection.close()
    return url


def open_database(settings: Settings, layer: str) -> Database:
    """A layer's database, logged in and ready; on a fresh home it starts the server and applies the schema."""
    database = Database(role_url(settings, layer))
    try:
        database.connection  # noqa: B018  (opens it)
    except DatabaseUnavailable as error:
        if settings.external_database:
            hint = f"; check DATABASE_URL/DB_* and DB_PASSWORD_{layer.upper()}, and run `make db-apply-schema-host`"
            raise DatabaseUnavailable(str(error) + hint) from error
        bring_up(settings)
        database.connection  # noqa: B018
    return database


def _create_owner_and_database(settings: Settings) -> None:
    from psycopg.conninfo import conninfo_to_dict

    server = embedded_server(settings)
    password = str(conninfo_to_dict(owner_url(settings))["password"])
    connection = connect(server.url("postgres", server.superuser_password, "postgres"))
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", (SCHEMA_LOCK,))
        verb = "ALTER" if _exists(connection, "SELECT FROM pg_roles WHERE rolname = 'sextant'") else "CREATE"
        connection.execute(
            sql.SQL("{} ROLE sextant LOGIN CREATEROLE CREATEDB NOSUPERUSER PASSWORD {}").format(
                sql.SQL(verb), sql.Literal(password)
            )
        )
        name = settings.db_name
        if not _exists(connection, "SELECT FROM pg_database WHERE datname = %s", name):
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER sextant").format(sql.Identifier(name)))
        superuser = connect(server.url("postgres", server.superuser_password, name))
        try:
            superuser.execute("CREATE EXTENSION IF NOT EXISTS vector")  # the only thing the owner may not do itself
        finally:
            superuser.close()
    finally:
        connection.close()  # and with it the lock: two first jobs at once make one database


def _exists(connection: Connection, query: LiteralString, *params: str) -> bool:
    return connection.execute(query, params or None).fetchone() is not None


def drop_database(settings: Settings) -> None:
    """Drops the embedded database with everything in it; refuses a server that is the user's own."""
    if settings.external_database:
        raise SettingsError("db-reset only resets the embedded database; drop the one at DATABASE_URL/DB_HOST by hand")
    server = embedded_server(settings)
    connection = connect(server.url("postgres", server.superuser_password, "postgres"))
    try:
        name = sql.Identifier(settings.db_name)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
    finally:
        connection.close()


def stop_server(settings: Settings) -> str:
    from shared.embedded_db import stop

    if settings.external_database:
        return "DATABASE_URL/DB_HOST names a server of your own; it is left running"
    return "stopped" if stop(settings.home_path) else "was not running"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The database: start, stop, apply the schema, reset.")
    parser.add_argument("action", choices=("up", "stop", "reset", "url", "apply", "apply-host"))
    action = parser.parse_args(argv).action
    try:
        settings = load_settings()
        if action == "stop":
            print(stop_server(settings))
            return 0
        if action == "apply-host" and not settings.external_database:
            raise SettingsError(
                "no server of your own is set: give DATABASE_URL, or DB_HOST and its like, in config/.env"
            )
        if action == "reset":
            drop_database(settings)
        url = bring_up(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except SextantError as error:
        print(error, file=sys.stderr)
        return 1
    if action != "url":
        print("the database is up and its schema is applied; `make db-psql` opens it, `make -s db-url` prints its URL")
    else:
        print(url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
