from __future__ import annotations

import json
import time
import unicodedata
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_controller.import_news import main, run_once
from meta_controller.news_files import LONGEST_BODY, LONGEST_TITLE, MOST_BYTES, NewsFileRefused, read_news_file
from shared.clock import ReplayClock
from shared.job import Outcome
from shared.settings import Settings
from tests.helpers import NOON, DatabaseFor

pytestmark = pytest.mark.usefixtures("rolled_back")

RSS = """<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel>
<title>A channel, which is no item</title><pubDate>Sat, 01 Jun 2024 11:59:00 GMT</pubDate>
<item><title>Rates &amp; bonds</title><description>&lt;p&gt;Rates were &lt;b&gt;cut&lt;/b&gt;.&lt;/p&gt;</description>
  <pubDate>Sat, 01 Jun 2024 10:30:00 +0200</pubDate></item>
<item><title>Second</title><description>short</description><content:encoded><![CDATA[<div>the long story</div>]]>
  </content:encoded><pubDate>Sat, 01 Jun 2024 05:00:00 EDT</pubDate></item>
</channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>A feed</title><updated>2024-06-01T11:59:00Z</updated>
<entry><title type="html">An &lt;i&gt;entry&lt;/i&gt;</title><updated>2024-06-01T11:00:00Z</updated>
<published>2024-06-01T10:00:00+00:00</published>
<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>One</p><p>two</p></div></content></entry></feed>"""
ITEMS = "SELECT source, published_at, title, body, known_from, recorded_at FROM news_items ORDER BY id"


def written(path: Path, content: str | bytes | list[Any]) -> Path:
    text = json.dumps(content) if isinstance(content, list) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def imported(database_for: DatabaseFor, *paths: Path, at: datetime = NOON, source: str | None = None) -> Outcome:
    return run_once(ReplayClock(at), database_for("meta_controller"), list(paths), source)


def one(
    title: Any = "A title", body: Any = "", published_at: Any = "2024-06-01T10:00:00Z", **more: Any
) -> dict[str, Any]:
    return {"title": title, "body": body, "published_at": published_at, **more}


def test_rss_items_are_read_with_their_own_times_and_without_markup(tmp_path: Path, database_for: DatabaseFor) -> None:
    outcome = imported(database_for, written(tmp_path / "wire.xml", RSS))
    assert outcome.status == "done"
    rows = database_for("meta_controller").fetch(ITEMS)
    assert [(row["title"], row["body"]) for row in rows] == [
        ("Rates & bonds", "Rates were cut ."), ("Second", "the long story"),
    ]  # fmt: skip
    assert [row["published_at"] for row in rows] == [NOON - timedelta(hours=3.5), NOON - timedelta(hours=3)]
    for row in rows:
        assert (row["source"], row["known_from"], row["recorded_at"]) == ("wire", row["published_at"], NOON)


def test_atom_entries_are_read(tmp_path: Path, database_for: DatabaseFor) -> None:
    imported(database_for, written(tmp_path / "feed.atom", ATOM), source="The Wire")
    (row,) = database_for("meta_controller").fetch(ITEMS)
    assert (row["title"], row["body"], row["source"]) == ("An entry", "Onetwo", "The Wire")
    assert row["published_at"] == NOON - timedelta(hours=1)  # when it was updated: nobody had this text before


@pytest.mark.parametrize("as_lines", [False, True])
def test_json_lists_and_json_lines_are_read(as_lines: bool, tmp_path: Path, database_for: DatabaseFor) -> None:
    items = [one("First", source="Alpha"), {"title": "Second", "summary": "s", "date": 1717236000},
             {"title": "Third", "content": "c", "published": "2024-06-01 11:00"}]  # fmt: skip
    text = "\n".join(map(json.dumps, items)) if as_lines else json.dumps(items)
    assert imported(database_for, written(tmp_path / "dump.json", text)).status == "done"
    rows = database_for("meta_controller").fetch(ITEMS)
    assert [(row["source"], row["title"], row["body"], row["published_at"]) for row in rows] == [
        ("Alpha", "First", "", NOON - timedelta(hours=2)), ("dump", "Second", "s", NOON - timedelta(hours=2)),
        ("dump", "Third", "c", NOON - timedelta(hours=1)),
    ]  # fmt: skip


def test_twice_changes_nothing(tmp_path: Path, database_for: DatabaseFor) -> None:
    path = written(tmp_path / "wire.xml", RSS)
    imported(database_for, path)
    before = database_for("meta_controller").fetch(ITEMS)
    again = imported(database_for, path, at=NOON + timedelta(hours=1))
    assert (again.status, again.result[str(path)]) == ("nothing", {"new": 0, "known": 2})
    assert database_for("meta_controller").fetch(ITEMS) == before


def test_bad_items_are_refused_with_reason_and_position_and_the_rest_is_stored(
    tmp_path: Path, database_for: DatabaseFor
) -> None:
    dates = [None, "soon", [1], "2024-06-02T12:00:01Z", "Sat, 01 Jun 2024 10:00:00 CEST", 1e300, "0001-01-01T00:00"]
    kept = one("Kept", published_at="2024-06-02T12:00:00Z")
    items = [one(), one(title=" \u200b"), "text", kept, *(one(published_at=date) for date in dates)]
    path = written(tmp_path / "dump.json", items)
    outcome = imported(database_for, path)
    assert outcome.status == "refused"
    assert outcome.result[str(path)] == {
        "new": 2, "known": 0,
        "refused": {"no title": 1, "no date": 1, "not a date": 4, "not a JSON object": 1, "dated in the future": 1,
                    "dated before 1990": 1},
        "examples": ["item 2: no title", "item 3: not a JSON object", "item 5: no date", "item 6: not a date",
                     "item 7: not a date"],
    }  # fmt: skip
    assert [row["title"] for row in database_for("meta_controller").fetch(ITEMS)] == ["A title", "Kept"]


def test_a_line_that_is_no_json_is_refused_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "dump.jsonl", f'{json.dumps(one())}\n{{"title": \n\n{"[" * 100_000}\n{json.dumps(one())}')
    parsed = read_news_file(path, NOON)
    assert (len(parsed.items), parsed.examples) == (2, ["line 2: not a JSON object", "line 4: not a JSON object"])


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
FEED = "<rss><channel><item><title>{}</title><pubDate>Sat, 01 Jun 2024 10:00:00 GMT</pubDate></item></channel></rss>"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f'<!DOCTYPE rss [<!ENTITY l0 "lol">{LAUGHS}]>' + FEED.format("&l9;"), "document type or entities"),
        ('<!DOCTYPE rss [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + FEED.format("&x;"), "document type or entities"),
        ('<!DOCTYPE rss SYSTEM "http://127.0.0.1:9/x.dtd">' + FEED.format("x"), "document type or entities"),
        ("<!DOCTYPE rss>".encode("utf-16") + FEED.format("x").encode("utf-16-le"), "document type or entities"),
        (FEED.format("&undeclared;"), "not well-formed"),
        ("<rss><item>", "not well-formed"),
        ("<html><body>Please log in</body></html>", "is it a web page?"),
        ("<rss>" + "<a>" * 200_000, "nested deeper than 100"),
        ('<?xml version="1.0" encoding="utf-7"?>' + FEED.format("x"), "not well-formed|cannot be read as XML"),
        ('[{"title": "x"', "not a JSON list"),
        ("[" * 100_000, "not a JSON list"),
        (b'[{"title": "\xff"}]', "not UTF-8"),
        ("title,body\n", "neither RSS, Atom nor JSON"),
        ("", "neither RSS, Atom nor JSON"),
    ],
)  # fmt: skip
def test_a_file_that_is_dangerous_or_broken_is_refused_as_a_whole(
    content: str | bytes, reason: str, tmp_path: Path, database_for: DatabaseFor
) -> None:
    good = written(tmp_path / "good.json", [one()])
    began = time.process_time()
    with pytest.raises(NewsFileRefused, match=reason):
        imported(database_for, good, written(tmp_path / "bad", content))
    assert time.process_time() - began < 1.0
    assert database_for("meta_controller").fetch(ITEMS) == []


def test_a_file_without_end_is_not_even_opened(tmp_path: Path) -> None:
    path = tmp_path / "huge.xml"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(NewsFileRefused, match="split it"):
        read_news_file(path, NOON)
    with pytest.raises(NewsFileRefused, match="cannot be read: No such file"):
        read_news_file(tmp_path / "none.xml", NOON)


def test_texts_are_cut_and_lose_what_nobody_sees(tmp_path: Path) -> None:
    hidden = "a\u200bb\u202ec\x00d\x1be\ufefff\U000e0041g\ud800h\n\ti"
    (item, cut) = read_news_file(
        written(tmp_path / "x.json", [one(hidden), one("t" * 600, "<p>" + "b " * 5000)]), NOON
    ).items
    assert item.title == "abc d efgh i"
    assert (len(cut.title), len(cut.body)) == (LONGEST_TITLE, LONGEST_BODY - 1)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [("5 < 6 & 7 > 6", "5 < 6 & 7 > 6"), ("&amp;lt;b&amp;gt;bold", "bold"), ("a<br/>b<!-- c -->d", "a b d"),
     ("<a href='x'>link</a>", "link"), ("<![foo[x", "<![foo[x")],
)  # fmt: skip
def test_markup_goes_and_signs_stay(raw: str, clean: str, tmp_path: Path) -> None:
    (item,) = read_news_file(written(tmp_path / "x.json", [one(raw)]), NOON).items
    assert item.title == clean


@given(st.lists(st.fixed_dictionaries({}, optional={
    "title": st.one_of(st.text(), st.text("<>&;!-[]lgt abc/"), st.integers()), "body": st.text(max_size=50),
    "date": st.one_of(st.text(), st.floats(), st.integers(), st.datetimes().map(str), st.none(), st.booleans()),
    "source": st.one_of(st.text(), st.none()),
}), max_size=5))  # fmt: skip
def test_whatever_a_file_holds_is_stored_whole_or_refused(tmp_path_factory: pytest.TempPathFactory, items: Any) -> None:
    parsed = read_news_file(written(tmp_path_factory.getbasetemp() / "any.json", items), NOON)
    assert len(parsed.items) + sum(parsed.refused.values()) == len(items)
    for item in parsed.items:
        assert 1 <= len(item.title) <= LONGEST_TITLE
        assert 1 <= len(item.source) <= 100
        assert item.published_at <= NOON + timedelta(days=1)
        assert not [c for c in item.title + item.body + item.source if unicodedata.category(c)[0] == "C"]


@pytest.mark.parametrize("tag", ["<", "<a ", "<!--", "&", "&lt;", "</", "<![CDATA[", "&#0;", "\u0300"])
def test_hostile_markup_costs_no_time(tag: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.json", [one("t", tag * (1_000_000 // len(tag)))])
    began = time.process_time()
    read_news_file(path, NOON)
    assert time.process_time() - began < 0.5


def test_a_bare_day_is_known_when_it_is_over(tmp_path: Path) -> None:
    path = written(tmp_path / "x.json", [one("a", published_at="2024-05-30"), one("b", published_at="2024-06-01")])
    old, today = read_news_file(path, NOON).items
    assert old.published_at == datetime.fromisoformat("2024-05-31T00:00:00+00:00")
    assert today.published_at == NOON


@pytest.mark.usefixtures("own_database")
def test_the_command_says_by_its_exit_code_what_came_of_it(
    database_for: DatabaseFor, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("shared.job.load_settings", lambda: settings)
    good = str(written(tmp_path / "good.xml", RSS))
    bad = str(written(tmp_path / "bad.json", [one(), one(title="")]))
    at = ["--at", NOON.isoformat()]
    assert main([good, "--source", "The Wire", *at]) == 0
    assert main([good, "--source", "The Wire", *at]) == 0
    assert main([bad, *at]) == 3
    assert main([str(tmp_path / "none"), *at]) == 1
    assert main([good, "--source", "", *at]) == 2
    assert "--source is a name of 1 to 100 characters" in capsys.readouterr().err
    rows = database_for("meta_controller").fetch(ITEMS)
    assert [row["source"] for row in rows] == ["The Wire", "The Wire", "bad"]
