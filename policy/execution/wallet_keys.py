"""The keys of live wallets, from the environment of the sender, which alone imports this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from policy.execution.venues.protocol import Credentials
from shared.errors import SextantError
from shared.wallets_file import WalletEntry


class NoCredentials(SextantError):
    """A wallet's key is not to be had; the message names the variable, never what is in one."""


def credentials_of(entry: WalletEntry, environ: Mapping[str, str], others: Iterable[WalletEntry] = ()) -> Credentials:
    """The key of one wallet. NoCredentials where a variable is missing, empty or has blanks in it, or where the key of
    one of ``others`` is the same: two nonces of one key refuse each other."""
    key, secret = (_value(entry, variable, environ) for variable in (entry.key_env, entry.secret_env))
    if key == secret:
        raise NoCredentials(f"wallet {entry.name}: {entry.key_env} and {entry.secret_env} hold the same; one is wrong")
    for other in others:
        if other.name != entry.name and environ.get(other.key_env, "").strip() == key:
            raise NoCredentials(
                f"wallet {entry.name}: {entry.key_env} holds the same key as {other.key_env} of wallet {other.name}; "
                "each wallet needs a key of its own: make one more at the venue"
            )
    return Credentials(key, secret)


def _value(entry: WalletEntry, variable: str, environ: Mapping[str, str]) -> str:
    value = environ.get(variable, "").strip()
    if not value:
        raise NoCredentials(
            f"wallet {entry.name}: the environment variable {variable}, which config/wallets.json names, is not set "
            "for the sender; set it there and start the sender again (docs/live-trading.md)"
        )
    if any(not character.isascii() or not character.isprintable() or character == " " for character in value):
        raise NoCredentials(
            f"wallet {entry.name}: {variable} holds something that is no key: it has blanks or controls"
        )
    return value
