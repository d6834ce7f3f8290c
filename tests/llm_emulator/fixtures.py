"""``from tests.llm_emulator.fixtures import llm_emulator  # noqa: F401``"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.llm_emulator.server import LlmEmulator


@pytest.fixture
def llm_emulator() -> Iterator[LlmEmulator]:
    """An endpoint of this test's own, on a free port."""
    with LlmEmulator() as emulator:
        yield emulator
