"""``python -m tests.simulation SEED`` repeats a crawl with its trace; ``FIRST-LAST`` lists the seeds that fail."""

import logging
import sys
import time

from tests.simulation.world import simulate


def main(argument: str) -> int:
    logging.disable(logging.CRITICAL)  # the trace has all the information
    first, _, last = argument.partition("-")
    began = time.perf_counter()
    failed = 0
    for seed in range(int(first), int(last or first) + 1):
        result = simulate(seed)
        failed += bool(result.breach)
        if not last:
            sys.stdout.write("\n".join(result.trace) + "\n")
        if result.breach or not last:
            sys.stdout.write(f"seed {seed}: {result.breach or result.digest}\n")
            sys.stdout.flush()
    seconds = time.perf_counter() - began
    if last:
        sys.stdout.write(f"{failed} of {int(last) - int(first) + 1} failed, {seconds:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
