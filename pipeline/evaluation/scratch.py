"""A database of its own for each fold: made by the owner on the same server, dropped when the fold is done.

Everything in it is written by the real jobs under their own roles. The main database stays as it is: an evaluation
trains models and replays years, and must not leave a trace among those that trade.
"""

from __future__ import annotations

from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from shared.db import Connection, DatabaseError, connect, drop_database, embedded_server, owner_url
from shared.schema import apply_schema, bring_up, role_passwords
from shared.settings import Settings, SettingsError

PREFIX = "sextant_scratch"


def scratch_settings(settings: Settings, key: str, fold: int) -> Settings:
    """The same settings, on the scratch database of a fold."""
    name = f"{PREFIX}_{key[:12]}_{fold}"
    if settings.database_url is None:
        return settings.model_copy(update={"db_name": name})
    url = make_conninfo(settings.database_url.get_secret_value(), dbname=name)
    return settings.model_copy(update={"db_name": name, "database_url": SecretStr(url)})


def create_scratch(settings: Settings, scratch: Settings) -> None:
    """Makes the database and applies the schema; nothing happens to one that is there (a killed fold goes on in it).

    SettingsError where the owner may not make databases on a server of the user's own."""
    if not settings.external_database:
        bring_up(scratch)
        return
    _require_scratch(scratch)
    connection = connect(owner_url(settings))
    try:
        found = "SELECT FROM pg_database WHERE datname = %s"
        if connection.execute(found, (scratch.db_name,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(scratch.db_name)))
    except DatabaseError as error:
        raise SettingsError(
            f"the owner of {settings.db_name} cannot make the scratch database {scratch.db_name}: {error}. Let it: "
            "ALTER ROLE … CREATEDB, or evaluate on the embedded database (unset DATABASE_URL and DB_HOST)"
        ) from error
    finally:
        connection.close()
    made = connect(owner_url(scratch))
    try:
        apply_schema(made, role_passwords(scratch))
    finally:
        made.close()


def drop_scratch(settings: Settings, scratch: Settings) -> None:
    """Drops a fold's database with all that is in it; nothing happens where there is none. Never any other."""
    _require_scratch(scratch)
    connection = _on_the_server(settings)
    try:
        drop_database(connection, scratch.db_name)
    finally:
        connection.close()


def drop_all_scratch(settings: Settings) -> list[str]:
    """Drops every fold's database on the server, of whatever evaluation; their names."""
    connection = _on_the_server(settings)
    try:
        query = "SELECT datname FROM pg_database WHERE datname LIKE %s ORDER BY datname"
        names = [name for (name,) in connection.execute(query, (rf"{PREFIX}\_%",))]
    finally:
        connection.close()
    for name in names:
        drop_scratch(settings, settings.model_copy(update={"db_name": name}))
    return names


def _on_the_server(settings: Settings) -> Connection:
    if settings.external_database:
        return connect(owner_url(settings))
    server = embedded_server(settings)
    return connect(server.url("postgres", server.superuser_password, "postgres"))


def _require_scratch(scratch: Settings) -> None:
    if not scratch.db_name.startswith(f"{PREFIX}_"):
        raise SettingsError(f"{scratch.db_name} is no scratch database: it is left alone")
