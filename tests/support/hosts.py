"""Hosts of our own on one machine: network namespaces, each on a virtual cable to this one. Linux only, with root."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Self

#: Addresses of this machine on those cables, treated like loopback.
OURS: set[str] = set()

#: Passes connections to 127.0.0.1:PORT in a namespace on to a relay at the other end of its cable.
_RELAY = """
import socket, sys, threading
port, host, far = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for end in (a, b):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
def serve(near):
    try:
        away = socket.create_connection((host, far), 60)
    except OSError:
        near.close()
        return
    away.settimeout(None)
    threading.Thread(target=pump, args=(near, away), daemon=True).start()
    pump(away, near)
listener = socket.create_server(("127.0.0.1", port), backlog=128)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def why_not() -> str:
    """Return the reason why no hosts can be made here, or an empty string."""
    if not sys.platform.startswith("linux") or shutil.which("ip") is None:
        return "needs Linux and iproute2"
    name = f"crawler-probe-{os.getpid()}"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"may not make network namespaces: {probe.stderr.strip()}"
    _ip("netns", "delete", name)
    return ""


class Host:
    """One namespace with one cable: ``here`` is this machine's address on it, ``address`` its own."""

    def __init__(self, number: int) -> None:
        mark = (3 * os.getpid() + number) % 64_000  # another run of the suite has hosts of its own
        self.name, self._cable = f"crawler-{mark}", f"crawl{mark}"
        net = f"10.{mark // 250 % 200 + 50}.{mark % 250}"
        self.here, self.address = f"{net}.1", f"{net}.2"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        OURS.add(self.here)
        _ip("netns", "add", self.name)
        self._stack.callback(_ip, "netns", "delete", self.name)
        self._stack.callback(_ip, "link", "delete", self._cable)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("address", "add", f"{self.here}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        self._inside("link", "set", "lo", "up")
        self._inside("address", "add", f"{self.address}/24", "dev", "eth0")
        self._inside("link", "set", "eth0", "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @property
    def prefix(self) -> tuple[str, ...]:
        """Return the beginning of a command line that runs a command there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Disconnect the cable."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        _ip("link", "set", self._cable, "up")

    def move(self, last: int) -> None:
        """Change its address; existing connections are not informed."""
        self._inside("address", "delete", f"{self.address}/24", "dev", "eth0")
        self.address = f"{self.address.rpartition('.')[0]}.{last}"
        self._inside("address", "add", f"{self.address}/24", "dev", "eth0")

    def pass_on(self, port: int, far: int) -> None:
        """Forward 127.0.0.1:``port`` there to port ``far`` of ``here``."""
        command = [*self.prefix, sys.executable, "-c", _RELAY, str(port), self.here, str(far)]
        relay = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._stack.callback(relay.wait)
        self._stack.callback(relay.kill)
        assert relay.stdout is not None and relay.stdout.readline() == "ready\n"
        relay.stdout.close()

    def _inside(self, *arguments: str) -> None:
        _ip("-netns", self.name, *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
