"""The base of what can go wrong and be named: the message says what happened, to what, and what to do next."""


class SextantError(Exception):
    """A job ends with exit 1 and this message, without a traceback."""
