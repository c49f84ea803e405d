"""Rows per second of input lists, and the memory they take: ``python -m tests.benchmarks.bench_lists``.

One reader, no frontier: the benchmark measures reading, finding the columns, and the canonical form of each URL.
"""

import csv
import gzip
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from crawler.harvest.url_lists.list_handler import ListHandler
from crawler.model import Request
from tests.benchmarks.bench_frontier import peak_memory

ROWS = 1_000_000


def url(number: int) -> str:
    return f"https://images{number % 997}.example.org/photos/2024/{number % 31:02d}/picture-{number}.jpg?w=1024"


def caption(number: int) -> str:
    return f"a picture, no {number}, of\nsomething" if number % 10 == 0 else f"a picture {number}"


def write_text(path: Path) -> None:
    with path.open("w", encoding="ascii") as file:
        file.writelines(f"{url(number)}\n" for number in range(ROWS))


def write_packed_text(path: Path) -> None:
    with gzip.open(path, "wt", encoding="ascii") as file:
        file.writelines(f"{url(number)}\n" for number in range(ROWS))


def write_csv(path: Path) -> None:
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_url", "caption", "width", "licence"])
        writer.writerows([url(number), caption(number), 1024, "cc-by"] for number in range(ROWS))


def write_json_lines(path: Path) -> None:
    with path.open("wb") as file:
        for number in range(ROWS):
            file.write(msgspec.json.encode({"url": url(number), "text": caption(number), "width": 1024}) + b"\n")


def write_bad_lines(path: Path) -> None:
    with path.open("w", encoding="ascii") as file:
        file.writelines("no URL at all\n" for _ in range(ROWS))


def measure(path: Path) -> None:
    reader, rows, longest, since = ListHandler(), 0, 0.0, time.perf_counter()
    request: Request | None = Request(url=path.as_uri(), kind="list", entries="image")
    while request is not None:
        start = time.perf_counter()
        outcome = reader.handle(request)
        longest = max(longest, time.perf_counter() - start)
        rows, request = rows + len(outcome.discovered) + outcome.rejected, outcome.successor
    speed = rows / (time.perf_counter() - since)
    sys.stdout.write(f"{path.name:<12} {speed:>9,.0f} rows/s  longest chunk {longest * 1e3:4.0f} ms  {peak_memory()}\n")


def main() -> None:
    """Measure each format. Memory only grows, so the first format that needs more shows it."""
    formats = [
        ("list.txt", write_text),
        ("list.txt.gz", write_packed_text),
        ("list.csv", write_csv),
        ("list.jsonl", write_json_lines),
        ("bad.txt", write_bad_lines),
    ]
    sys.stdout.write(f"{ROWS:,} rows each; memory before: {peak_memory()}\n")
    for name, write in formats:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / name)
            measure(Path(folder) / name)


if __name__ == "__main__":
    main()
