"""What the environment says of reaching an exchange, read once a session instead of before each request."""

from __future__ import annotations

import requests


def read_once(session: requests.Session, url: str) -> None:
    """Takes the proxies and certificates that the environment names for ``url``, and looks at it no more: asking it
    anew takes a millisecond of each request. No password of a ~/.netrc is ever sent."""
    found = session.merge_environment_settings(url, {}, None, None, None)
    session.proxies, session.verify, session.cert = found["proxies"], found["verify"], found["cert"]
    session.trust_env = False
