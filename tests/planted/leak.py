"""A planted leak: one deliberate mistake, as an exact replacement of text in one file, and who should notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class LeakOutdated(Exception):
    """The text that a leak replaces is not in its file exactly once; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Leak:
    """``what`` is wrong once ``old`` is ``new`` in ``file``; ``tests``: paths or node ids that should notice it."""

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """``text`` with the mistake in it; LeakOutdated unless the place is there exactly once."""
        found = text.count(self.old)
        if found != 1:
            raise LeakOutdated(
                f"the leak {self.name} replaces a text that is {found} times in {self.file}, not once: {self.old!r}. "
                "The code has changed: bring the leak up to date in tests/planted/leaks/"
            )
        return text.replace(self.old, self.new)

    def apply(self, root: Path) -> bytes:
        """Puts the mistake into the copy at ``root``; what the file was before."""
        path = root / self.file
        if not path.is_file():
            raise LeakOutdated(
                f"the leak {self.name} is in {self.file}, which is not there: name the file it is in now"
            )
        before = path.read_bytes()
        path.write_bytes(self.applied(before.decode()).encode())
        return before
