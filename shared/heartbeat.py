"""A sign of life after each job run, to a monitor that alerts when it stays out (healthchecks.io and its like).

The monitor is another machine's: it speaks up when this one is off, when cron does not run, when the network is down.
HEARTBEAT_URL is its address, ``{job}`` in it the job's name. A token in it is a secret, so it is never logged.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr

TIMEOUT_S = 5.0

log = logging.getLogger("sextant.heartbeat")


def beat(url: SecretStr | None, job: str, passed: bool, wait: bool = True) -> None:
    """Asks for ``url`` where a job was done, for ``url``/fail where it was not; nothing without a URL.

    Never raises and takes no longer than TIMEOUT_S: the run it tells of is over, whatever becomes of its news. A
    service that has more to do does not ``wait``.
    """
    if url is None:
        return
    # A thread, for a name server that does not answer knows no timeout; a daemon, for nobody may wait for it at exit.
    asking = threading.Thread(target=_ask, args=(url.get_secret_value(), job, passed), name="heartbeat", daemon=True)
    asking.start()
    if not wait:
        return
    asking.join(TIMEOUT_S)
    if asking.is_alive():
        log.warning("the heartbeat was not taken", extra={"job": job, "because": f"no answer within {TIMEOUT_S:g} s"})


def _ask(url: str, job: str, passed: bool) -> None:
    try:
        because = _refusal(_address(url, job, passed))
    except Exception as error:  # not its text: urllib's complaints show the address, and so its token
        because = type(error).__name__
    if because is not None:
        log.warning("the heartbeat was not taken", extra={"job": job, "because": because})


def _address(url: str, job: str, passed: bool) -> str:
    """A query, as in ?create=1, stays behind the path."""
    from urllib.parse import quote, urlsplit

    parts = urlsplit(url.replace("{job}", quote(job, safe="")))
    return (parts if passed else parts._replace(path=parts.path.rstrip("/") + "/fail")).geturl()


def _refusal(address: str) -> str | None:
    """None where the monitor took it, else in a word why not."""
    from urllib.error import HTTPError
    from urllib.request import urlopen  # only here: it brings ssl and http, which a job without a monitor does not need

    if not address.startswith(("https://", "http://")):
        return "HEARTBEAT_URL does not begin with https:// or http://"
    try:
        with urlopen(address, timeout=TIMEOUT_S):  # noqa: S310 (the operator's own address, of the web, checked)
            return None
    except HTTPError as error:
        return f"HTTP status {error.code}"
