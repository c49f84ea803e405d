"""Whole crawls in which every reference leads to an address that is not public: no request ever arrives there."""

import ipaddress
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

import crawler
from crawler.app.config import CrawlConfig
from crawler.app.crawl import Crawl
from crawler.app.downloader_node import DownloaderNode
from crawler.app.seeds import CrawlInput
from crawler.app.summary import Summary
from crawler.cli.summary_text import complaint
from crawler.demo.server import DemoServer
from crawler.errors import RequestFailed
from crawler.model import ImageRecord, Request
from crawler.net.address_guard import Guard
from crawler.net.fetcher import Conditions
from crawler.net.requests_fetcher import RequestsFetcher
from crawler.queue.client import RemoteFrontier
from crawler.urls import canonicalize, host_and_port, resolve
from tests.support.calls import Call, calls
from tests.support.network import PUBLIC, Canary, Network, web
from tests.support.processes import commands, manifest_of, many_pictures, wait_until
from tests.support.spellings import NAMES, NONSENSE, SPELLINGS

Answer = tuple[int, dict[str, str], bytes]


def picture() -> bytes:
    data = BytesIO()
    Image.new("RGB", (16, 16)).save(data, "PNG")
    return data.getvalue()


PICTURE = picture()
OK: Answer = 200, {"Content-Type": "image/png"}, PICTURE
MISSING: Answer = 404, {}, b""
ASKS = "site.example"


class Trap:
    """A public web in which every link leads to the canary, and its network."""

    def __init__(self, canary: Canary) -> None:
        #: Host and path → response; hosts are without their port.
        self.answers: dict[tuple[str, str], Answer] = {}
        #: URLs with each spelling of an address, the canary's port and a path of their own.
        self.links = [f"http://{host}:{canary.port}/{n}.png" for n, host in enumerate((*SPELLINGS, *NONSENSE))]
        self.names: dict[str, list[object]] = {name: [addresses] for name, addresses in NAMES.items()}
        self.names[ASKS] = [[PUBLIC]]
        self.network: Network

    def answer(self, host: str, path: str) -> Answer:
        return self.answers.get((host.partition(":")[0], path), MISSING)

    @property
    def real(self) -> list[str]:
        """Return the links that are valid URLs; the meaning of the others is undefined."""
        return [link for link in self.links if resolve(None, link)]


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as canary:
        yield canary


@pytest.fixture
def trap(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    trap = Trap(canary)
    with web(trap.answer) as place:
        trap.network = Network(trap.names, {PUBLIC: place})  # type: ignore[arg-type]  # answers of all kinds
        trap.network.install(monkeypatch)
        yield trap


def crawl(place: Path, *, seeds: tuple[str, ...] = (), images: list[str] | None = None) -> Summary:
    """Run a crawl of pages and a list of pictures in this process, without pauses."""
    tables = {"politeness": {"delay": 0, "per_host": 16}, "machine": {"workers": 0}, "crawl": {"patience": 0}}
    lists = []
    if images:
        lists.append(place.with_name("images.jsonl"))
        lists[0].write_text("".join(json.dumps({"url": url}) + "\n" for url in images), encoding="utf-8")
    config = CrawlConfig.load(("the test", tables))
    return Crawl(place, config).run(CrawlInput(seeds=seeds, image_lists=tuple(lists)))


def unharmed(trap: Trap, canary: Canary) -> bool:
    """Return whether only the public web was visited."""
    assert {journey[0] for journey in trap.network.journeys} <= {PUBLIC}
    return (canary.connections, canary.bytes) == (0, 0)


def reasons(place: Path) -> Counter[str]:
    return Counter(row.reason for row in manifest_of(place / "out"))


def test_there_are_enough_spellings_and_without_the_guard_they_lead_to_the_canary(trap: Trap, canary: Canary) -> None:
    assert len(trap.real) >= 80 and len(trap.links) - len(trap.real) >= 5
    with closing(RequestsFetcher(guard=Guard(allow_private=True))) as fetcher:
        for link in trap.real:
            with suppress(RequestFailed):
                fetcher.fetch(Request(url=canonicalize(link)), Conditions())
    assert canary.connections >= 40 and canary.bytes > 1_000


def test_a_list_of_pictures_never_reaches_the_canary(trap: Trap, canary: Canary, tmp_path: Path) -> None:
    summary = crawl(tmp_path / "out", images=trap.links)
    assert reasons(tmp_path) == {"blocked-address": len(trap.real)}
    assert summary.stats.bad_lines == len(trap.links) - len(trap.real)
    assert not trap.network.journeys and unharmed(trap, canary)
    assert summary.exit_code == 8
    assert complaint(summary) == "no image was saved: private addresses are visited only with --allow-private"


def test_redirects_of_a_permitted_host_never_reach_the_canary(trap: Trap, canary: Canary, tmp_path: Path) -> None:
    for number, link in enumerate(trap.links):
        trap.answers[ASKS, f"/{number}"] = 302, {"Location": link}, b""
    crawl(tmp_path / "out", images=[f"http://{ASKS}/{number}" for number in range(len(trap.links))])
    nonsense = len(trap.links) - len(trap.real)
    assert reasons(tmp_path) == {"blocked-address": len(trap.real), "bad-url": nonsense}
    assert unharmed(trap, canary)


def test_redirects_of_robots_txt_never_reach_the_canary(trap: Trap, canary: Canary, tmp_path: Path) -> None:
    for number, link in enumerate(trap.links):
        trap.names[f"h{number}.example"] = [[PUBLIC]]
        trap.answers[f"h{number}.example", "/robots.txt"] = 301, {"Location": link}, b""
        trap.answers[f"h{number}.example", "/a.png"] = OK
    crawl(tmp_path / "out", images=[f"http://h{number}.example/a.png" for number in range(len(trap.links))])
    assert {row.status for row in manifest_of(tmp_path / "out")} == {"success", "duplicate"}  # as without any rules
    assert len(trap.network.journeys) == 2 * len(trap.links)
    assert unharmed(trap, canary)


def test_the_srcset_of_a_page_never_reaches_the_canary(trap: Trap, canary: Canary, tmp_path: Path) -> None:
    page = "".join(f'<img src="/own.png" srcset="{link} 2x">' for link in trap.links)
    trap.answers[ASKS, "/"] = 200, {"Content-Type": "text/html; charset=utf-8"}, page.encode()
    trap.answers[ASKS, "/own.png"] = OK
    summary = crawl(tmp_path / "out", seeds=(f"http://{ASKS}/",))
    rows = {row.url: row for row in manifest_of(tmp_path / "out")}
    assert {rows[canonicalize(link)].reason for link in trap.real} == {"blocked-address"}
    assert rows[f"http://{ASKS}/own.png"].status == "success" and summary.exit_code == 0
    assert unharmed(trap, canary)


def test_names_that_are_public_only_at_the_first_lookup_never_reach_the_canary(
    trap: Trap, canary: Canary, tmp_path: Path
) -> None:
    urls = []
    for number, link in enumerate(trap.real):
        host = host_and_port(canonicalize(link))[0]
        name = f"h{number}.example"
        trap.names[name] = [[PUBLIC], [host] if _is_address(host) else NAMES.get(host, ("127.0.0.1",))]
        urls.append(f"http://{name}:{canary.port}/a.png")
    crawl(tmp_path / "out", images=urls)
    assert reasons(tmp_path) == {"blocked-address": len(trap.real)}
    assert len(trap.network.journeys) == len(trap.real), "each robots.txt was requested, and no picture"
    assert {trap.network.questions[f"h{number}.example"] for number in range(len(urls))} == {2}
    assert unharmed(trap, canary)


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


# --- exemptions by seeds


def page(folder: Path, *links: str) -> Path:
    """Write a site of one page with one picture of its own, and these."""
    site = many_pictures(folder, 1)
    html = '<img src="0000.png">' + "".join(f'<img src="{link}">' for link in links)
    (site / "a" / "index.html").write_text(html, encoding="utf-8")
    return site


def by_url(place: Path) -> dict[str, ImageRecord]:
    return {row.url: row for row in manifest_of(place)}


def test_a_seed_on_this_machine_exempts_no_other_port(canary: Canary, tmp_path: Path) -> None:
    links = [f"http://127.0.0.1:{canary.port}/{n}.png" for n in range(3)]
    with DemoServer(page(tmp_path, *links)) as server:
        summary = crawler.run(server.url, output=tmp_path / "out")
    assert (summary.stats.success, summary.stats.reasons, summary.exit_code) == (1, {"blocked-address": 3}, 0)
    assert canary.connections == 0


def test_a_second_seed_exempts_its_own_port(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path / "other", 1)) as other:
        with DemoServer(page(tmp_path / "site", f"{other.a}/0000.png")) as server:
            crawler.run([server.url, other.url], output=tmp_path / "out")
        assert by_url(tmp_path / "out")[f"{other.a}/0000.png"].status != "failed"


def test_a_seed_of_an_earlier_run_is_still_exempt(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 6)) as server:
        crawler.run(server.url, output=tmp_path / "out", max_images=2)
        assert crawler.run([], output=tmp_path / "out", max_images=6).stats.success == 6


def test_a_seed_in_a_list_exempts_its_address_and_a_picture_in_a_list_does_not(tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 2)) as server:
        for name, url in (("pages", server.url), ("images", f"{server.url}0000.png")):
            (tmp_path / f"{name}.txt").write_text(f"{url}\n")
        pages = Crawl(tmp_path / "out", _threads()).run(CrawlInput(seed_lists=(tmp_path / "pages.txt",)))
        asked = len(server.requests)
        images = Crawl(tmp_path / "two", _threads()).run(CrawlInput(image_lists=(tmp_path / "images.txt",)))
        assert len(server.requests) == asked
    assert (pages.stats.success, images.stats.success, images.stats.reasons) == (2, 0, {"blocked-address": 1})


def _threads() -> CrawlConfig:
    return CrawlConfig.load(("the test", {"machine": {"workers": 0}}))


def fleet(seed: str, folder: Path, *, allow_private: bool = False) -> Summary:
    """Run a master and one downloader, in two threads."""
    ended: list[Summary] = []
    master = Crawl(folder / "job", CrawlConfig.load(("the test", {"queue": {"lease": 6}})))

    def run() -> None:
        ended.append(master.run(CrawlInput(seeds=(seed,)), downloads_here=False))

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: (folder / "job" / "join").exists(), "a join file")
    config = CrawlConfig.load(("the test", {"machine": {"allow_private": allow_private}}))
    assert DownloaderNode(folder / "job" / "join", folder / "machine", config).run() == "drained"
    thread.join()
    return ended[0]


@pytest.mark.parametrize(
    ("is_local", "allows", "saved"), [(True, False, 3), (False, False, 0), (False, True, 3)], ids=str
)
def test_a_master_s_seeds_are_exempt_for_downloaders_on_its_own_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_local: bool, allows: bool, saved: int
) -> None:
    monkeypatch.setattr(RemoteFrontier, "is_local", is_local)
    site = many_pictures(tmp_path, 4)
    (site / "a" / "robots.txt").write_text("User-agent: *\nDisallow: /0003.png\n")
    with DemoServer(site) as server:
        stats = fleet(server.url, tmp_path, allow_private=allows).stats
        asked = [hit.path for hit in server.requests]
    assert (stats.pages_done, stats.success) == (1, saved)
    expected = {"robots": 1} | ({} if saved else {"blocked-address": 3})
    assert stats.reasons == expected, "the rules of the site apply to every worker"
    assert asked.count("/robots.txt") == 1


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    with calls(tmp_path, monkeypatch, capsys) as made:
        yield made


def test_a_refused_picture_is_fetched_by_a_retry_with_permission(call: Call, tmp_path: Path) -> None:
    with DemoServer(many_pictures(tmp_path, 1)) as server:
        (tmp_path / "near.txt").write_text(f"{server.a}/0000.png\n")
        refused = call("run", "--images", "near.txt", "-w", 0)
        asked = len(server.requests)
        had = call("retry", "out", "--only", "blocked-address", "--allow-private", "-w", 0)
        assert (refused.code, asked, had.code) == (8, 0, 0), had.err
        assert [hit.path for hit in server.requests][-1:] == ["/0000.png"]
    assert refused.err.count("refused to connect to 127.0.0.1") == 1


# --- with real processes


@pytest.mark.fire
def test_commands_send_nothing_and_name_the_option_that_permits_it(canary: Canary, tmp_path: Path) -> None:
    hosts = ("127.0.0.1", "127.1", "2130706433", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0")
    (tmp_path / "list.txt").write_text("".join(f"http://{host}:{canary.port}/{host}.png\n" for host in hosts))
    with commands(tmp_path) as start, DemoServer(many_pictures(tmp_path, 2)) as server:
        (tmp_path / "near.txt").write_text(f"{server.a}/0000.png\n{server.b}/nothing.png\n")
        run = start("run", "run", "--images", "list.txt", "-w", 1, "-o", "run")
        bold = start("bold", "run", "--images", "near.txt", "-w", 1, "-o", "bold", "--allow-private")
        assert (run.ends(), bold.ends()) == (8, 0), bold.said
        assert sorted(row.reason for row in manifest_of(tmp_path / "bold")) == ["", "http-404"]
    assert (canary.connections, canary.bytes) == (0, 0)
    lines = run.said.splitlines()
    assert lines[-1] == "crawler: no image was saved: private addresses are visited only with --allow-private"
    assert any("failed" in line and f"blocked-address {len(hosts)}" in line for line in lines)
