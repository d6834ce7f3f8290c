"""Zip archives of candle files, like Kraken's Kraken_OHLCVT.zip and its quarterly ones: thousands of members, of which
few are wanted. Nothing is unpacked to disk; one member at a time is read.
"""

from __future__ import annotations

import difflib
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from candles import csv_rows
from candles.candle_files import ARCHIVE_MARKS, DOLLAR_QUOTES, FileRefused, Series, series_from_name
from candles.csv_rows import refuse

MOST_NEAR_NAMES = 10
DAMAGES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which series to take; an empty choice takes all there are. ``label`` names the venue where names do not."""

    venue: str | None = None
    symbols: tuple[str, ...] = ()
    timeframe_s: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        timeframe = f"{self.timeframe_s} s candles" if self.timeframe_s else "candles of any timeframe"
        return f"{self.venue or 'any venue'}'s {timeframe} of {', '.join(self.symbols) or 'any symbol'}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The members to import, each with whose candles it holds, and how many were left out, by reason.

    ``stored_as``: a wanted symbol that is only there under another dollar, and that one.
    """

    taken: list[tuple[zipfile.ZipInfo, Series]]
    skipped: dict[str, int]
    stored_as: dict[str, str]


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive does; False for one that cannot be opened, which its reader will tell."""
    try:
        with path.open("rb") as file:
            return file.read(4) in ARCHIVE_MARKS
    except OSError:
        return False


def open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except DAMAGES as error:
        refuse(path, f"is a zip archive that cannot be opened ({error})", "download it again")


def choose_members(path: Path, members: Sequence[zipfile.ZipInfo], wanted: Wanted) -> Choice:
    """What is wanted of an archive; FileRefused, with the nearest names, when it holds nothing of it."""
    named = [(info, _series(info, wanted)) for info in members if not info.is_dir()]
    there = {series.symbol for _, series in named if series and _fits(series, wanted)}
    found = {symbol: next((s for s in spellings(symbol) if s in there), symbol) for symbol in wanted.symbols}
    skipped: Counter[str] = Counter()
    taken = []
    for info, series in named:
        if series is None:
            skipped["its name says no series"] += 1
        elif wanted.venue and series.venue != wanted.venue:
            skipped[f"of {series.venue}"] += 1
        elif wanted.symbols and series.symbol not in found.values():
            skipped["another symbol"] += 1
        elif wanted.timeframe_s and series.timeframe_s != wanted.timeframe_s:
            skipped["another timeframe"] += 1
        else:
            taken.append((info, series))
    if not taken:
        refuse(
            path, _nothing_found(named, wanted, skipped), "choose with --venue, --symbol, --timeframe, or take --all"
        )
    return Choice(taken, dict(skipped), {symbol: other for symbol, other in found.items() if other != symbol})


def spellings(symbol: str) -> list[str]:
    """The symbol and, for a dollar token, the pair against the dollar under which a venue may list it instead."""
    base, _, quote = symbol.partition("/")
    return [symbol, f"{base}/USD"] if quote in DOLLAR_QUOTES[1:] else [symbol]


def read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """One member's bytes; FileRefused for one that is encrypted, too large or damaged (its checksum is compared)."""
    member = path / info.filename
    if info.flag_bits & 1:
        refuse(member, "is encrypted", "unzip it with its password and import the files in it")
    if info.file_size > csv_rows.MOST_BYTES:
        refuse(member, f"unpacks to {info.file_size:,} bytes", f"at most {csv_rows.MOST_BYTES:,} are read; split it")
    try:
        return archive.read(info)  # never more than file_size
    except DAMAGES as error:
        refuse(member, f"is damaged inside its zip archive ({error})", "download it again")


def _series(info: zipfile.ZipInfo, wanted: Wanted) -> Series | None:
    try:
        return series_from_name(Path(PurePosixPath(info.filename).name), wanted.label, None, None)
    except FileRefused:
        return None


def _fits(series: Series, wanted: Wanted) -> bool:
    return wanted.venue in (None, series.venue) and wanted.timeframe_s in (None, series.timeframe_s)


def _nothing_found(
    named: Sequence[tuple[zipfile.ZipInfo, Series | None]], wanted: Wanted, skipped: Counter[str]
) -> str:
    """Why nothing of ``named`` was wanted, and which names come nearest."""
    why = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
    names = [info.filename for info, _ in named]
    bases = {symbol.partition("/")[0] for symbol in wanted.symbols}
    near = [info.filename for info, series in named if series and series.symbol.partition("/")[0] in bases]
    if not near:
        near = [n for s in wanted.symbols for n in difflib.get_close_matches(s.replace("/", ""), names, cutoff=0.3)]
    shown = ", ".join((near or names)[:MOST_NEAR_NAMES]) or "none"
    return f"holds none of {wanted} (of its {len(named)} members: {why or 'none'}; nearest: {shown})"
