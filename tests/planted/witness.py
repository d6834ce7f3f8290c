"""A pytest plugin: writes what became of each test, and draws hypothesis' examples the same each time.

Examples of a failure are not shrunk: that it fails is all that is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "planted",
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("planted")

WITNESS = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--witness", help="the file that gets a JSON object a line: test, when, outcome, raised, said")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WITNESS] = Path(config.getoption("--witness"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report: pytest.TestReport = yield
    if report.when == "call" or report.outcome != "passed":
        raised = _kinds(call.excinfo.value) if call.excinfo else []
        said = str(call.excinfo.value).strip().partition("\n")[0][:200] if call.excinfo else ""
        _tell(item.config, test=item.nodeid, when=report.when, outcome=report.outcome, raised=raised, said=said)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report: pytest.CollectReport = yield
    if report.failed:
        said = report.longreprtext.strip().rpartition("\n")[2][:200]
        _tell(collector.config, test=collector.nodeid, when="collect", outcome="failed", raised=[], said=said)
    return report


def _kinds(error: BaseException) -> list[str]:
    """The types of what was raised, of a group those of its members."""
    if isinstance(error, BaseExceptionGroup):
        return [kind for member in error.exceptions for kind in _kinds(member)]
    return [cls.__name__ for cls in type(error).__mro__[:-1]]


def _tell(config: pytest.Config, **fields: Any) -> None:
    with config.stash[WITNESS].open("a") as file:
        file.write(json.dumps(fields) + "\n")
