"""Imports news files (RSS, Atom, JSON): the only door by which third-party text comes in.

    python -m meta_controller.import_news FILE... [--source NAME]

Input: files. Output: news_items. Bad items are refused with a count and their positions (exit 3), the rest is stored;
importing a file twice changes nothing. An item about the past was public then, so ``known_from`` is when it was
published; ``recorded_at`` says when it came here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from meta_controller.news_files import LONGEST_SOURCE, ParsedNews, read_news_file
from shared.clock import Clock
from shared.db import Database, load_queries
from shared.job import Context, Outcome, UsageError, job, job_parser, run_job_command


@job("import_news")
def run_once(clock: Clock, database: Database, paths: list[Path], source: str | None = None) -> Outcome:
    """Imports all files in one transaction: if one cannot be read (NewsFileRefused), nothing of any is stored.

    ``source`` names the items; else each names its own, or goes by its file's name.
    """
    now = clock.now()
    parsed = {str(path): read_news_file(path, now, source) for path in paths}
    with database.transaction():
        results = {name: _store(database, news, clock) for name, news in parsed.items()}
    refused = any(news.refused for news in parsed.values())
    new = any(result["new"] for result in results.values())
    return Outcome("refused" if refused else "done" if new else "nothing", results)


def _store(database: Database, news: ParsedNews, clock: Clock) -> dict[str, Any]:
    rows = [
        {"source": item.source, "digest": item.digest, "published_at": item.published_at, "title": item.title,
         "body": item.body, "recorded_at": clock.now()}
        for item in news.items
    ]  # fmt: skip
    new = database.execute_many(load_queries("news")["insert_news_item"], rows)
    result: dict[str, Any] = {"new": new, "known": len(rows) - new}
    if news.refused:
        result |= {"refused": dict(news.refused), "examples": news.examples}
    return result


def _work(context: Context) -> Outcome:
    source = context.arguments.source
    if source is not None and not 0 < len(source.strip()) <= LONGEST_SOURCE:
        raise UsageError(f"--source is a name of 1 to {LONGEST_SOURCE} characters, not {len(source)}")
    return run_once(context.clock, context.database, context.arguments.files, source)


def main(argv: list[str] | None = None) -> int:
    parser = job_parser("Import news files: RSS, Atom, or JSON of {title, body, published_at, source}.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--source", help="who says so (default: what each item names, or the file's name)")
    return run_job_command("meta_controller", parser, _work, argv)


if __name__ == "__main__":
    sys.exit(main())
