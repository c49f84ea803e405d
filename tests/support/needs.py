"""Requirements of some tests: without them a test is skipped, or fails if the requirement is declared mandatory."""

import os

import pytest


def need(name: str, *, is_there: bool, reason: str) -> None:
    """Skip the test with ``reason``, or fail it if ``CRAWLER_TEST_REQUIRE`` names the requirement."""
    if not is_there and name in os.environ.get("CRAWLER_TEST_REQUIRE", "").split(","):
        pytest.fail(f"{name} is required here: {reason}")
    if not is_there:
        pytest.skip(reason)
