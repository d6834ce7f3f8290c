"""The short form: every leak still has its place and its tests, and some are tried; and the harness itself judges."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from tests.planted.__main__ import grouped, main
from tests.planted.leak import LeakOutdated
from tests.planted.leaks import FAMILIES, LEAKS
from tests.planted.trial import try_leak
from tests.planted.workbench import PROJECT, Copy, files_of

QUICK = ("unfinished-hour-derived", "trials-counted-as-one", "known-from-ignored")  # neither compile nor ask a database
DERIVED = LEAKS["unfinished-hour-derived"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy.of(PROJECT, files_of(PROJECT), tmp_path_factory.mktemp("planted") / "copy")


@pytest.mark.parametrize("name", LEAKS)
def test_every_leak_has_its_place_and_still_compiles(name: str) -> None:
    leak = LEAKS[name]
    leaking = leak.applied((PROJECT / leak.file).read_text())
    assert leaking != (PROJECT / leak.file).read_text()
    assert not leak.file.endswith(".py") or ast.parse(leaking)


@pytest.mark.parametrize("name", LEAKS)
def test_the_tests_that_should_notice_are_there(name: str) -> None:
    for test in LEAKS[name].tests:
        file, _, function = test.partition("::")
        defined = {node.name for node in ast.walk(ast.parse((PROJECT / file).read_text())) if hasattr(node, "name")}
        assert not function or function in defined, test


def test_there_are_more_than_twenty_each_with_a_name_of_its_own() -> None:
    assert sum(len(leaks) for leaks in FAMILIES.values()) == len(LEAKS) >= 22
    assert len(FAMILIES["execution"]) >= 25


@pytest.mark.parametrize("name", QUICK)
def test_a_leak_is_caught_by_tests_that_pass_without_it(copy: Copy, name: str) -> None:
    found = try_leak(copy, LEAKS[name], elsewhere=False)
    assert found.word == "caught", found.because
    assert found.test in copy.hear([found.test]).passed


def test_what_changes_nothing_is_missed_and_the_file_is_as_it_was(copy: Copy) -> None:
    before = (copy.root / DERIVED.file).read_bytes()
    harmless = replace(DERIVED, name="harmless", old="    if not len(starts):", new="    if len(starts) == 0:")
    assert try_leak(copy, harmless, elsewhere=False).word == "MISSED"
    assert try_leak(copy, harmless, [f"{DERIVED.tests[0]}::test_it"], elsewhere=False).word == "UNPROVEN"
    assert (copy.root / DERIVED.file).read_bytes() == before


def test_what_does_not_run_is_broken_and_not_caught(copy: Copy) -> None:
    for new in ("import nothing_of_that_name\n    if not len(starts):", "if not (len(starts):"):
        broken = replace(DERIVED, name="broken", old="if not len(starts):", new=new)
        assert try_leak(copy, broken, elsewhere=False).word == "BROKEN"


def test_a_leak_whose_text_is_not_there_once_is_refused() -> None:
    leak = replace(DERIVED, old="no such text")
    with pytest.raises(LeakOutdated, match=r"0 times in candles/derive\.py.*bring the leak up to date"):
        leak.applied((PROJECT / leak.file).read_text())
    with pytest.raises(LeakOutdated, match="2 times"):
        replace(leak, old="a").applied("a a")
    with pytest.raises(LeakOutdated, match="not there"):
        replace(leak, file="gone.py").apply(PROJECT)


def test_tests_are_heard_in_groups_those_of_a_file_together() -> None:
    assert grouped({"a.py::x", "b.py::z", "a.py::y", "c.py::x"}, 2) == [["a.py::x", "a.py::y", "c.py::x"], ["b.py::z"]]
    assert grouped({"a.py::x"}, 3) == [["a.py::x"]]


def test_an_unknown_name_is_refused_with_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--name", "no-such-leak"])
    assert refused.value.code == 2
    assert "no leak is called no-such-leak" in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert DERIVED.name in capsys.readouterr().out
