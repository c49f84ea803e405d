"""Lines on standard error: results, summaries and the error line."""

from contextlib import suppress

import click

from crawler.text import printable


def complain(text: str, code: int) -> int:
    print_line(f"crawler: {printable(text)}")
    return code


def print_line(text: str) -> None:
    """Print text on standard error; a closed standard error is not a fault."""
    with suppress(OSError):
        click.echo(text, err=True)
