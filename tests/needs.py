"""What a machine must have for some tests: they are skipped where it is missing, and fail where it must be there."""

import os

import pytest


def need(name: str, *, is_there: bool, reason: str) -> None:
    """Skip the test with ``reason``, or fail it where ``CRAWLER_TEST_REQUIRE`` names what is missing."""
    if not is_there and name in os.environ.get("CRAWLER_TEST_REQUIRE", "").split(","):
        pytest.fail(f"{name} is required here: {reason}")
    if not is_there:
        pytest.skip(reason)
