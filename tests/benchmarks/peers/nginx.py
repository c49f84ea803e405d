"""nginx on loopback: one port that answers at once, and one that waits before each answer."""

import getpass
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

HOW_TO_INSTALL = "nginx is missing: apt-get install nginx-light, brew install nginx, or https://nginx.org"
#: Seconds that the slow port waits.
LATENCY = 0.05
_START = 10.0

# `auth_delay` is the only timer before an answer in nginx itself, without a module. It runs at the speed of the event
# loop: `curl --parallel` gets the rate that latency and connections allow. The refused request is then served.
_CONFIG = """
{user}worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  log_format times '$msec $request_time $status $body_bytes_sent $request_uri';
  access_log {folder}/access.log times;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  types {{ text/html html; image/jpeg jpg; text/plain txt; }}
  sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 120;
  root {root};
  server {{ listen 127.0.0.1:{fast} backlog=4096; }}
  server {{
    listen 127.0.0.1:{slow} backlog=4096;
    auth_delay {milliseconds}ms;
    error_page 401 = @files;
    location / {{ auth_basic slow; auth_basic_user_file /dev/null; }}
    location @files {{ }}
  }}
}}
"""


class Served(Struct, frozen=True):
    """A running nginx."""

    fast: str
    slow: str
    log: Path
    version: str

    def mark(self) -> int:
        """Return the present end of the access log."""
        return self.log.stat().st_size

    def requests_since(self, mark: int) -> tuple[int, float]:
        """Return the number of requests since the mark, and the time at which the first of them arrived."""
        with self.log.open(encoding="utf-8") as file:
            file.seek(mark)
            return first_request(file)


def first_request(lines: Iterator[str]) -> tuple[int, float]:
    """Return the number of lines of an access log, and the time at which the earliest of their requests arrived."""
    times = [line.split(" ", 2)[:2] for line in lines]
    return len(times), min((float(end) - float(took) for end, took in times), default=0.0)


@contextmanager
def serve(root: Path, folder: Path, workers: int) -> Iterator[Served]:
    """Serve the folder ``root`` on two free ports of loopback; ``folder`` is for nginx itself."""
    command = shutil.which("nginx")
    if command is None:
        raise SystemExit(HOW_TO_INSTALL)
    fast, slow = free_port(), free_port()
    config, user = folder / "nginx.conf", getpass.getuser()
    text = _CONFIG.format(
        user="user root;\n" if user == "root" and sys.platform == "linux" else "",
        workers=workers,
        folder=folder,
        root=root,
        fast=fast,
        slow=slow,
        milliseconds=round(LATENCY * 1000),
    )
    config.write_text(text, encoding="utf-8")
    nginx = [command, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    version = subprocess.run([command, "-v"], capture_output=True, text=True, check=True).stderr
    with subprocess.Popen([*nginx, "-g", "daemon off;"], stdin=subprocess.DEVNULL) as process:
        try:
            _wait_for(slow, process)
            base = "http://127.0.0.1:{}"
            yield Served(base.format(fast), base.format(slow), folder / "access.log", version.strip().split("/")[-1])
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("nginx does not start; its messages are above")
