"""Medians of the runs, as tables in Markdown and as a plot in SVG."""

import statistics
from collections.abc import Iterable, Sequence
from html import escape

from msgspec import Struct

from tests.benchmarks.peers.programs import PROGRAMS
from tests.benchmarks.peers.workloads import WORKLOADS


class Run(Struct, frozen=True, kw_only=True):
    """One run of one program, a line of the results."""

    workload: str
    program: str
    version: str
    round: int
    #: Pictures of the workload, and those of them that were saved with exactly their bytes.
    number: int
    verified: int
    #: Seconds of the whole command, and those from its first request to its end.
    seconds: float
    seconds_of_requests: float
    #: Seconds of CPU of the process tree; the peak of its memory in MiB.
    cpu: float
    memory: float | None
    requests: int
    #: Exit code; None if the time limit was exceeded. A few programs end with a code above 0 if one picture failed.
    code: int | None
    #: The last line of the program's messages if the code is not 0, or the reason why it was not run.
    message: str = ""
    command: list[str] = []


class Row(Struct, frozen=True, kw_only=True):
    """The medians of the runs of one program with one workload."""

    workload: str
    program: str
    rounds: int
    number: int
    #: The least of all rounds.
    verified: int
    seconds: float
    #: Verified pictures a second, of the whole command and from its first request on.
    rate: float
    rate_of_requests: float
    #: Milliseconds of CPU per verified picture.
    cpu: float
    memory: float | None
    message: str


def medians(runs: Iterable[Run]) -> list[Row]:
    """Return a row for each program and workload, in the order of their first runs."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.workload, run.program), []).append(run)
    return [_row(group) for group in groups.values()]


def _row(runs: Sequence[Run]) -> Row:
    memory = [run.memory for run in runs if run.memory is not None]
    return Row(
        workload=runs[0].workload,
        program=runs[0].program,
        rounds=len(runs),
        number=runs[0].number,
        verified=min(run.verified for run in runs),
        seconds=statistics.median(run.seconds for run in runs),
        rate=statistics.median(_ratio(run.verified, run.seconds) for run in runs),
        rate_of_requests=statistics.median(_ratio(run.verified, run.seconds_of_requests) for run in runs),
        cpu=statistics.median(_ratio(run.cpu * 1000, run.verified) for run in runs),
        memory=statistics.median(memory) if memory else None,
        message=next((run.message for run in runs if run.message), ""),
    )


def _ratio(amount: float, of: float) -> float:
    return amount / of if of else 0.0


def names(rows: Iterable[Row]) -> tuple[list[str], list[str]]:
    """Return the workloads and the programs of the rows, each once, in the order of their tables."""
    rows = list(rows)
    workloads, programs = {row.workload for row in rows}, {row.program for row in rows}
    in_order = [each.name for each in WORKLOADS if each.name in workloads]
    return in_order, [each.name for each in PROGRAMS if each.name in programs]


def overview(rows: Sequence[Row]) -> str:
    """Return a table of images a second and CPU milliseconds an image, with a line for each program."""
    workloads, programs = names(rows)
    titles = {each.name: each.title for each in WORKLOADS}
    cells = {(row.workload, row.program): _cell(row) for row in rows}
    lines = [[program, *(cells.get((workload, program), "–") for workload in workloads)] for program in programs]
    return table(["", *(titles[workload] for workload in workloads)], lines)


def _cell(row: Row) -> str:
    if not row.verified:
        return "failed"
    if row.number < 100:  # a small job is a matter of seconds
        return f"{row.seconds:.2f} s"
    found = "" if row.verified == row.number else f"; {row.verified:,} saved"
    return f"{row.rate:,.0f} ({_short(row.cpu)}{found})"


def details(rows: Sequence[Row]) -> str:
    """Return a table with a line for each program and workload."""
    head = ["workload", "program", "images/s", "after start-up", "CPU ms", "MiB", "saved", "seconds", "remarks"]
    lines = []
    for workload in names(rows)[0]:
        for row in (row for row in rows if row.workload == workload):
            figures = [f"{row.rate:,.0f}", f"{row.rate_of_requests:,.0f}", _short(row.cpu)]
            memory = "–" if row.memory is None else f"{row.memory:.0f}"
            saved = f"{row.verified:,} of {row.number:,}"
            lines.append([workload, row.program, *figures, memory, saved, f"{row.seconds:.2f}", row.message])
    return table(head, lines)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [list(head), ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


_BAR, _LABEL, _LENGTH, _GAP = 16, 130, 330, 34


def plot(rows: Sequence[Row]) -> str:
    """Return bars of images a second: below one another a panel for each workload, in each a bar for each program."""
    titles = {each.name: each.title for each in WORKLOADS}
    parts, top = [], 6
    for workload in names(rows)[0]:
        shown = sorted((row for row in rows if row.workload == workload and row.verified), key=lambda row: -row.rate)
        if shown:
            parts += _panel(f"{titles[workload]}: images/s", shown, top)
            top += _GAP + _BAR * len(shown)
    width = _LABEL + _LENGTH + 80
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}" '
        f'font-family="sans-serif" font-size="11">\n<rect width="{width}" height="{top}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(title: str, rows: Sequence[Row], top: int) -> list[str]:
    parts = [f'<text x="{_LABEL}" y="{top + 12}" font-weight="bold">{escape(title)}</text>']
    for index, row in enumerate(rows):
        y, length = top + 18 + index * _BAR, max(1.0, row.rate / rows[0].rate * _LENGTH)
        colour = "#1f6fb4" if row.program.startswith("imgcrawler") else "#b8bec6"
        parts += [
            f'<text x="{_LABEL - 6}" y="{y + 11}" text-anchor="end">{escape(row.program)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{length:.1f}" height="{_BAR - 3}" fill="{colour}"/>',
            f'<text x="{_LABEL + length + 5:.1f}" y="{y + 11}">{row.rate:,.0f}</text>',
        ]
    return parts
