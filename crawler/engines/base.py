"""Interface of engines: an engine starts the workers of a crawl in one kind of place, waits for them and stops them."""

from collections.abc import Callable
from typing import IO, Any, Protocol, TypeAlias


class Engine(Protocol):
    """Starter and supervisor of the workers in one kind of place. It does not depend on what they do."""

    def start(self) -> None:
        """Start the workers and return at once."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds``; return True once no worker of this engine is alive.

        Raises:
            CrawlerError: the error that made a worker give up.
        """
        ...

    def stop(self, *, now: bool = False) -> None:
        """Ask the workers to finish the work in progress, or end them ``now``."""
        ...


class RemoteEngine:
    """Engine of workers that users start on other machines: there is nothing to start, to wait for or to stop here."""

    def start(self) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        return True

    def stop(self, *, now: bool = False) -> None:
        pass


class Process(Protocol):
    """A process with pipes as its standard input and standard error, such as `subprocess.Popen`."""

    pid: int
    returncode: Any
    stdin: IO[str] | None
    stderr: IO[str] | None

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        ...

    def wait(self) -> object:
        """Wait for the end, and set ``returncode``."""
        ...

    def kill(self) -> None:
        """Kill the process, unless it has ended."""
        ...


#: Starts a process; it takes the arguments of `subprocess.Popen`.
StartProcess: TypeAlias = Callable[..., Process]
