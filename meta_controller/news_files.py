"""News files as items: RSS 2.0, RSS 1.0 and Atom, or JSON. Their text is hostile until shown otherwise.

XML is parsed without entities: a file that declares a document type is refused. Texts lose their markup, and their
characters that nobody sees (control, zero-width, direction); they stay hostile.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

from shared.clock import from_unix
from shared.job import JobError

MOST_BYTES = 32 * 1024 * 1024
MOST_DEPTH = 100  # of nested elements
ROOTS = ("rss", "feed", "RDF")  # of RSS 2.0, Atom, RSS 1.0
LONGEST_TITLE, LONGEST_BODY, LONGEST_SOURCE = 500, 4000, 100  # characters, as the table has them
LONGEST_RAW = 12_000  # characters of one field that are looked at
TAG = re.compile(r"<[!/?]?[A-Za-z!-][^<>]*>")  # a tag, a comment; "a < b" is none. Linear in the text
AHEAD = timedelta(days=1)  # a feed's clock may be that wrong
DAY = re.compile(r"\d{4}-\d\d-\d\d")
FIRST_DAY = datetime(1990, 1, 1, tzinfo=UTC)
EXAMPLES = 5

TITLES, DATES = ("title",), ("published_at", "published", "pubDate", "updated", "date")
BODIES = ("encoded", "content", "body", "description", "summary")  # the longest story first
MAIL_ZONE = re.compile(r"\s(?:[+-]\d{4}|GMT|UTC?|Z|[ECMP][SD]T)\s*$")  # RFC 822; others could be any hour


class NewsFileRefused(JobError):
    """The file cannot be read at all; the message says why."""


class BadItem(ValueError):
    """One item cannot be used; the message is a fixed phrase, never the item's text."""


@dataclass(frozen=True, slots=True)
class NewsItem:
    """One item as it is stored: cleaned, cut, its time in UTC."""

    source: str
    published_at: datetime
    title: str
    body: str

    @property
    def digest(self) -> str:
        """sha256 of source, title and body: what makes two items the same."""
        return sha256(json.dumps([self.source, self.title, self.body]).encode()).hexdigest()


@dataclass(slots=True)
class ParsedNews:
    """What a file holds: items in its order, and the count of refused ones by reason with the first few positions."""

    items: list[NewsItem] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def refuse(self, position: str, reason: str) -> None:
        self.refused[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{position}: {reason}")


def read_news_file(path: Path, now: datetime, source: str | None = None) -> ParsedNews:
    """All items of a file; NewsFileRefused for one that cannot be read as a whole.

    ``source`` names them all; else each says its own, or goes by the file's name.
    """
    parsed = ParsedNews()
    for position, raw in _raw_items(path):
        try:
            parsed.items.append(_item(raw, source, path.stem, now))
        except BadItem as reason:
            parsed.refuse(position, str(reason))
    return parsed


def _raw_items(path: Path) -> Iterator[tuple[str, Any]]:
    data = _read(path)
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"<" or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return _xml_items(path, data)
    if start in (b"[", b"{"):
        return _json_items(path, data)
    raise NewsFileRefused(f"{path} is neither RSS, Atom nor JSON: it begins with none of '<', '[' and '{{'")


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise NewsFileRefused(f"{path} has {size} bytes, at most {MOST_BYTES} are read; split it")
        return path.read_bytes()
    except OSError as error:
        raise NewsFileRefused(f"{path} cannot be read: {error.strerror}") from None


# ── JSON ──


def _json_items(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    """Items of a list, of lines, or the one object that the whole file is; a line that is no JSON yields None."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NewsFileRefused(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    whole, problem = _json(text)
    if isinstance(whole, list):
        return ((f"item {n}", item) for n, item in enumerate(whole, 1))
    if problem is None:
        return iter([("item 1", whole)])
    if not text.lstrip().startswith("{"):
        raise NewsFileRefused(f"{path} is not a JSON list: {problem}")
    return ((f"line {n}", _json(line)[0]) for n, line in enumerate(text.split("\n"), 1) if line.strip())


def _json(text: str) -> tuple[Any, str | None]:
    try:
        return json.loads(text), None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        told = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else type(error).__name__
        return None, told


# ── XML ──


class _Feed:
    """Collects the items of a feed while expat reads it: of each element named item or entry the first text of each
    child, by the child's name without its namespace."""

    def __init__(self) -> None:
        self.items: list[tuple[str, dict[str, str]]] = []
        self._path: list[str] = []
        self._item_depth = 0
        self._item: dict[str, str] = {}
        self._name = ""
        self._text: list[str] = []

    def start(self, name: str, _: dict[str, str]) -> None:
        self._path.append(name.rpartition(" ")[2])
        if len(self._path) == 1 and self._path[0] not in ROOTS:
            raise NewsFileRefused("it begins as no feed does (rss, feed or RDF): is it a web page?")
        if len(self._path) > MOST_DEPTH:
            raise NewsFileRefused(f"elements are nested deeper than {MOST_DEPTH}")
        if not self._item_depth and self._path[-1] in ("item", "entry"):
            self._item_depth, self._item = len(self._path), {}
        elif self._item_depth and len(self._path) == self._item_depth + 1:
            self._name, self._text = self._path[-1], []

    def text(self, data: str) -> None:
        if self._item_depth and len(self._path) > self._item_depth:
            self._text.append(data)

    def end(self, _: str) -> None:
        depth = len(self._path)
        self._path.pop()
        if self._item_depth and depth == self._item_depth + 1:
            self._item.setdefault(self._name, "".join(self._text))
        elif self._item_depth and depth == self._item_depth:
            self.items.append((f"item {len(self.items) + 1}", self._item))
            self._item_depth = 0


def _xml_items(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    feed, parser = _Feed(), expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = feed.start
    parser.EndElementHandler = feed.end
    parser.CharacterDataHandler = feed.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.EntityDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise NewsFileRefused(f"{path} is not well-formed XML: {error}") from None
    except NewsFileRefused as error:
        raise NewsFileRefused(f"{path} is refused: {error}") from None
    except (LookupError, ValueError) as error:  # an encoding that nobody knows
        raise NewsFileRefused(f"{path} cannot be read as XML: {error}") from None
    return iter(feed.items)


def _refuse_doctype(*_: Any) -> NoReturn:
    raise NewsFileRefused("it declares a document type or entities, which no feed needs and attacks begin with")


# ── one item ──


def _item(raw: Any, source: str | None, file: str, now: datetime) -> NewsItem:
    if not isinstance(raw, dict):
        raise BadItem("not a JSON object")
    title = _clean(_first(raw, TITLES), LONGEST_TITLE)
    if not title:
        raise BadItem("no title")
    said = raw.get("source")
    named = source or (said if isinstance(said, str) else "") or file
    return NewsItem(
        source=_clean(named, LONGEST_SOURCE) or "unnamed",
        published_at=_published(raw, now),
        title=title,
        body=_clean(_first(raw, BODIES), LONGEST_BODY),
    )


def _first(raw: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first of the named fields that holds a text."""
    for name in names:
        value = raw.get(name)
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _published(raw: dict[str, Any], now: datetime) -> datetime:
    """The latest of its dates: a text that was updated is known from then."""
    values = [raw[name] for name in DATES if raw.get(name) not in (None, "")]
    if not values:
        raise BadItem("no date")
    try:
        at = max(_moment(value, now) for value in values)
    except (ValueError, OverflowError, TypeError, AttributeError, OSError):
        raise BadItem("not a date") from None
    if at > now + AHEAD:
        raise BadItem("dated in the future")
    if at < FIRST_DAY:
        raise BadItem("dated before 1990")
    return at


def _moment(value: Any, now: datetime) -> datetime:
    """ISO 8601 or RFC 822; a number is Unix seconds. Without a zone it is UTC; a zone that the RFC does not know is no
    date: taken for UTC it could put an item before its time. A bare day is its end, or now if it has not ended."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return from_unix(value)
    text = value.strip()
    if DAY.fullmatch(text):
        return min(_midnight(text) + timedelta(days=1), max(now, _midnight(text)))
    parse: Callable[[str], datetime] = datetime.fromisoformat if text[:4].isdigit() else _mail_date
    at = parse(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _midnight(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def _mail_date(text: str) -> datetime:
    if not MAIL_ZONE.search(text):
        raise ValueError("a zone that RFC 822 does not know")
    return parsedate_to_datetime(text)


def _clean(text: str, longest: int) -> str:
    """Without markup, without characters that nobody sees, white space as single blanks, cut to ``longest``."""
    for _ in range(2):  # feeds escape markup once more often than they should
        text = unescape(TAG.sub(" ", text[:LONGEST_RAW]))
    text = unicodedata.normalize("NFC", TAG.sub(" ", text))
    seen = "".join(" " if (kind := unicodedata.category(c)) in ("Cc", "Zl", "Zp", "Zs") else c if kind[0] != "C" else ""
                   for c in text)  # fmt: skip
    return " ".join(seen.split())[:longest].rstrip()
