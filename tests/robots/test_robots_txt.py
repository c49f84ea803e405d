"""robots.txt: the lines that count, their matching, and the meaning of a missing file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from crawler.errors import RequestFailed
from crawler.model import Outcome, Request, RobotsRules
from crawler.net.fetcher import Canned, CannedFetcher
from crawler.robots.robots_txt import MAX_BYTES, RobotsHandler, allowed, own_rules, refusal, robots_allowed
from crawler.robots.tdmrep import parse_tdmrep

UA = "imgcrawler/0.1 (+https://imgcrawler.example/bot; contact=me@bot.example)"
URL = "http://site.example/robots.txt"


def may(body: bytes | str, path: str, user_agent: str = UA) -> bool:
    return robots_allowed(body, user_agent, f"http://site.example{path}")


def handled(answer: Canned | RequestFailed, hops: int = 0) -> Outcome:
    return RobotsHandler(CannedFetcher({URL: answer}), UA).handle(Request(url=URL, kind="robots", hops=hops))


# --- groups


def test_our_group_takes_precedence_over_the_group_of_all() -> None:
    body = "User-agent: *\nDisallow: /\n\nUser-agent: ImgCrawler\nDisallow: /private\n"
    assert own_rules(body, UA) == "User-agent: *\nDisallow: /private\n"
    assert (may(body, "/open"), may(body, "/private/x"), may(body, "/open", "otherbot")) == (True, False, False)


def test_an_empty_group_of_ours_allows_everything() -> None:
    assert own_rules("User-agent: *\nDisallow: /\nUser-agent: imgcrawler\nDisallow:\n", UA) == ""


def test_all_groups_that_name_us_are_combined() -> None:
    body = "User-agent: imgcrawler\nDisallow: /a\nUser-agent: x\nDisallow: /\nUser-agent: imgcrawler\nDisallow: /b\n"
    assert own_rules(body, UA) == "User-agent: *\nDisallow: /a\nDisallow: /b\n"


def test_one_group_may_name_many_agents() -> None:
    assert not may("User-agent: x\nUser-agent: imgcrawler\nUser-agent: y\nDisallow: /a", "/a")


def test_other_records_do_not_end_a_group() -> None:
    assert not may("User-agent: imgcrawler\nCrawl-delay: 5\nSitemap: /s.xml\nHost: x\nUser-agent: y\nDisallow: /", "/a")


@pytest.mark.parametrize(
    ("written", "ours"),
    [("IMGCRAWLER", True), ("imgcrawler/2.0", True), ("imgcrawler*", True), ("img", False), ("bot", False)],
)
def test_an_agent_is_matched_by_its_product_token(written: str, ours: bool) -> None:
    assert may(f"User-agent: {written}\nDisallow: /", "/a") is not ours


@pytest.mark.parametrize("user_agent", ["foobot", "Foobot/1.0", "Mozilla/5.0 (compatible; Foobot/1.0; +http://f/)"])
def test_the_token_is_found_in_the_whole_header(user_agent: str) -> None:
    assert not may("User-agent: foobot\nDisallow: /\nUser-agent: mozilla\nAllow: /", "/a", user_agent)


def test_rules_before_any_agent_apply_to_no_agent() -> None:
    assert own_rules("Disallow: /\nUser-agent: *\nDisallow: /a", UA) == "User-agent: *\nDisallow: /a\n"


# --- syntax


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbfUser-agent: *\nDisallow: /a",
        b"user-agent:*\rDISALLOW:/a\r",
        b"  User-Agent : *  # all\r\n\tDisallow : /a # private\r\n",
        b"User agent *\nDissallow /a",
        b"\x00\xff\xfe garbage\nUser-agent: *\n\n\nDisallow: /a",
        b"<html>\nUser-agent: *\nDisallow: /a\n</html>",
    ],
)
def test_lines_are_read_in_the_usual_spellings(body: bytes) -> None:
    assert own_rules(body, UA) == "User-agent: *\nDisallow: /a\n"


@pytest.mark.parametrize("path", ["/caf%C3%A9", "/caf%c3%a9/x", "/café"])
def test_letters_match_their_escapes(path: str) -> None:
    assert not may("User-agent: *\nDisallow: /café".encode(), path)
    assert not may("User-agent: *\nDisallow: /caf%C3%A9", path)


def test_only_whole_lines_of_the_first_mib_count() -> None:
    start = b"User-agent: *\nDisallow: /early\n"
    filler = b"#" * (MAX_BYTES - len(start) - len(b"\nDisallow: /la"))
    assert own_rules(start + filler + b"\nDisallow: /late\n", UA) == "User-agent: *\nDisallow: /early\n"


def test_repeated_rules_are_kept_once() -> None:
    assert own_rules("User-agent: *\n" + "Disallow: /a\n" * 100, UA) == "User-agent: *\nDisallow: /a\n"


# --- matching (RFC 9309 §2.2.2, §2.2.3)


@pytest.mark.parametrize(
    ("rules", "path", "verdict"),
    [
        ("Disallow: /", "/robots.txt", True),
        ("Disallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("Allow: /a/b\nDisallow: /a/b", "/a/b", True),
        ("Allow: /a\nDisallow: /*.php", "/a.php", False),
        ("Disallow: /*.gif$", "/x/y.gif", False),
        ("Disallow: /*.gif$", "/x/y.gif?z", True),
        ("Disallow: /a?b=", "/a?b=1", False),
        ("Disallow: /A", "/a", True),
        ("Disallow: //a", "//a", False),
        ("Disallow: *", "", False),
    ],
)
def test_the_longest_match_decides_and_allow_takes_precedence_in_a_tie(rules: str, path: str, verdict: bool) -> None:
    assert may(f"User-agent: *\n{rules}", path) is verdict


@pytest.mark.parametrize(
    "url", ["", "/x", "x", "?", "http://[bad/x", "http://h:99999/x", "\ud800", "//h/x", "HTTP://H/x"]
)
def test_any_url_may_be_checked(url: str) -> None:
    assert not robots_allowed("User-agent: *\nDisallow: /", UA, url)
    assert robots_allowed("", UA, url)


def test_many_stars_are_matched_quickly() -> None:
    assert may("User-agent: *\n" + "Disallow: /" + "*a" * 5000 + "b$\n", "/" + "a" * 8000)


def test_a_refusal_names_its_rule() -> None:
    rules = "User-agent: *\nDisallow: /private/\n" + parse_tdmrep(b'[{"location": "/art/", "tdm-reservation": 1}]')
    reasons = [refusal(rules, f"http://site.example{path}") for path in ("/private/x", "/art/x", "/x")]
    assert [error and (error.reason, error.detail) for error in reasons] == [
        ("robots", "robots.txt"),
        ("opted-out", "tdmrep.json"),
        None,
    ]


# --- properties

_AGENTS = st.sampled_from(["*", "imgcrawler", "otherbot"])
_PATHS = st.text("ab/*$.?%é", min_size=1, max_size=6).map("/".__add__)
_RULES = st.lists(st.tuples(st.sampled_from(["Allow", "Disallow"]), _PATHS), min_size=1, max_size=4)
_GROUPS = st.lists(st.tuples(st.lists(_AGENTS, min_size=1, max_size=2), _RULES), max_size=4)


def _file(groups: list[tuple[list[str], list[tuple[str, str]]]]) -> str:
    lines: list[str] = []
    for agents, rules in groups:
        lines += [f"User-agent: {agent}" for agent in agents]
        lines += [f"{field}: {path}" for field, path in rules]
    return "\n".join(lines)


@given(_GROUPS, st.text("ab/.?$", max_size=6))
def test_the_extracted_lines_have_the_meaning_of_the_whole_file(
    groups: list[tuple[list[str], list[tuple[str, str]]]], path: str
) -> None:
    body = _file(groups)
    url = f"http://site.example/{path}"
    assert allowed(own_rules(body, UA), url) == Protego.parse(body).can_fetch(url, UA)


@given(
    st.lists(
        st.sampled_from([b"User-agent: *", b"Disallow: /", b"\n", b"\r", b"#", b"$", b"*"]) | st.binary(max_size=9)
    )
)
def test_no_bytes_raise_and_extracting_twice_changes_nothing(parts: list[bytes]) -> None:
    rules = own_rules(b"".join(parts), UA)
    assert own_rules(rules, "anybody") == rules
    assert own_rules(rules + parse_tdmrep(b'{"location": "/", "tdm-reservation": 1}'), "anybody") == rules
    assert rules.isascii()
    allowed(rules, "http://site.example/a")


# --- over HTTP


def test_rules_delay_and_sitemaps_are_reported() -> None:
    body = b"Sitemap: /map.xml\nSitemap: ftp://x/\nUser-agent: *\nCrawl-delay: 2.5\nDisallow: /a\nsitemap: https://o.example/m"
    outcome = handled(Canned(body=body))
    assert outcome.status == "done"
    assert outcome.robots is not None
    assert outcome.robots.text == "User-agent: *\nDisallow: /a\n"
    assert outcome.robots.crawl_delay == 2.5
    assert outcome.robots.sitemaps == ("http://site.example/map.xml", "https://o.example/m")
    assert outcome.robots.reachable
    assert (outcome.received, outcome.latency > 0) == (len(body), True)


@pytest.mark.parametrize(
    ("written", "delay"),
    [("5", 5), ("1e9", 300), ("0", None), ("-1", None), ("nan", None), ("inf", None), ("soon", None), ("", None)],
)
def test_crawl_delay_is_a_plausible_number_or_none(written: str, delay: float | None) -> None:
    outcome = handled(Canned(body=f"User-agent: *\nCrawl-delay: {written}".encode()))
    assert outcome.robots is not None
    assert outcome.robots.crawl_delay == delay


@pytest.mark.parametrize(
    ("cache_control", "lifetime"),
    [
        ("", 86_400),
        ("public, max-age=7200", 7_200),
        ("max-age=1", 3_600),
        ("Max-Age=99999999", 86_400),
        ("s-maxage=1", 86_400),
    ],
)
def test_the_lifetime_of_rules_is_between_an_hour_and_a_day(cache_control: str, lifetime: float) -> None:
    outcome = handled(Canned(headers={"Cache-Control": cache_control}))
    assert outcome.robots is not None
    assert outcome.robots.lifetime == lifetime


@pytest.mark.parametrize("status", [304, 400, 401, 403, 404, 410, 451])
def test_a_missing_file_allows_everything(status: int) -> None:
    outcome = handled(Canned(status=status, body=b"User-agent: *\nDisallow: /"))
    assert (outcome.status, outcome.robots and outcome.robots.text) == ("done", "")


@pytest.mark.parametrize(
    "answer",
    [
        *(Canned(status=status) for status in (429, 500, 501, 503)),
        *(RequestFailed(reason) for reason in ("dns", "connect", "tls", "timeout")),
    ],
)
def test_an_unreachable_file_forbids_everything_for_the_time_being(answer: Canned | RequestFailed) -> None:
    outcome = handled(answer)
    assert outcome.status == "retry"
    assert outcome.robots is not None
    assert (outcome.robots.reachable, outcome.robots.lifetime) == (False, 3_600)


def test_an_origin_with_a_refused_address_needs_no_rules_and_is_checked_again_soon() -> None:
    outcome = handled(RequestFailed("blocked-address"))
    assert (outcome.status, outcome.reason) == ("done", "")
    assert outcome.robots is not None
    assert (outcome.robots.reachable, outcome.robots.text, outcome.robots.lifetime) == (True, "", 60)


def test_a_redirect_to_a_refused_address_counts_as_missing() -> None:
    outcome = handled(RequestFailed("blocked-address"), hops=1)
    assert (outcome.status, outcome.robots) == ("done", RobotsRules())


def test_an_overloaded_host_is_left_alone() -> None:
    outcome = handled(Canned(status=503, headers={"Retry-After": "30"}))
    assert (outcome.reason, outcome.overloaded, outcome.host_wait) == ("http-503", True, 30)


def test_redirects_are_followed_five_times_and_then_the_file_is_missing() -> None:
    away = Canned(status=301, headers={"Location": "https://other.example/robots.txt"})
    moved = handled(away, hops=4)
    assert moved.status == "moved"
    assert moved.successor is not None
    assert (moved.successor.target, moved.successor.hops) == ("https://other.example/robots.txt", 5)
    assert (handled(away, hops=5).status, handled(away, hops=5).robots is not None) == ("done", True)


def test_a_redirect_to_an_unsupported_url_counts_as_missing() -> None:
    outcome = handled(Canned(status=302, headers={"Location": "ftp://site.example/robots.txt"}))
    assert (outcome.status, outcome.robots and outcome.robots.reachable) == ("done", True)


def test_an_endless_file_is_read_up_to_one_mib() -> None:
    body = b"User-agent: *\nDisallow: /a\n" + b"# \n" * MAX_BYTES
    outcome = handled(Canned(headers={"Content-Length": str(len(body))}, body=body))
    assert outcome.robots is not None
    assert outcome.robots.text == "User-agent: *\nDisallow: /a\n"
    assert MAX_BYTES < outcome.received < MAX_BYTES + 100_000


def test_at_most_a_thousand_sitemaps_are_taken() -> None:
    outcome = handled(Canned(body=b"".join(b"Sitemap: /%d.xml\n" % n for n in range(1500))))
    assert outcome.robots is not None
    assert len(outcome.robots.sitemaps) == 1000


def test_rules_that_grow_by_escaping_are_cut_at_a_line() -> None:
    body = b"User-agent: *\n" + b"".join(b"Disallow: /%d%b\n" % (n, b"\xff" * 12) for n in range(30_000))
    rules = own_rules(body, UA)
    assert len(body) < MAX_BYTES < 30_000 * 40
    assert MAX_BYTES - 100 < len(rules) <= MAX_BYTES and rules.endswith("%FF\n")


# --- tdmrep.json

TDM_URL = "http://site.example/.well-known/tdmrep.json"


def asked_too(answers: dict[str, Canned | RequestFailed]) -> list[Outcome]:
    """Return the outcomes of a request whose handler asks for tdmrep.json too."""
    handler = RobotsHandler(CannedFetcher(answers), UA, tdm=True)
    outcomes = [handler.handle(Request(url=URL, kind="robots"))]
    while (successor := outcomes[-1].successor) is not None:
        outcomes.append(handler.handle(successor))
    return outcomes


def test_the_rules_of_both_files_are_combined() -> None:
    robots = Canned(body=b"User-agent: *\nCrawl-delay: 2\nDisallow: /a\n")
    moved, done = asked_too({URL: robots, TDM_URL: Canned(body=b'[{"location": "/b", "tdm-reservation": 1}]')})
    assert (moved.status, done.status, done.robots and done.robots.crawl_delay) == ("moved", "done", 2.0)
    assert done.robots is not None
    assert done.robots.text == "User-agent: *\nDisallow: /a\nTdm-reservation: 1 /b\n"


@pytest.mark.parametrize(
    "answer",
    [
        *(Canned(status=status) for status in (301, 404, 429, 500, 206)),
        *(Canned(body=b"<html>"), Canned(status=301, headers={"Location": "/.well-known/tdmrep.json"})),
        RequestFailed("timeout", retryable=True),
    ],
)
def test_without_a_tdmrep_json_the_rules_of_robots_txt_hold(answer: Canned | RequestFailed) -> None:
    done = asked_too({URL: Canned(body=b"User-agent: *\nDisallow: /a"), TDM_URL: answer})[-1]
    assert (done.status, done.reason) == ("done", "")
    assert done.robots is not None
    assert done.robots.text == "User-agent: *\nDisallow: /a\n"


def test_tdmrep_json_is_not_requested_if_robots_txt_forbids_it_or_everything() -> None:
    (done,) = asked_too({URL: Canned(body=b"User-agent: *\nDisallow: /")})
    assert done.status == "done"


def test_a_stop_of_the_worker_is_no_response() -> None:
    assert asked_too({URL: Canned(), TDM_URL: RequestFailed("cancelled", retryable=True)})[-1].status == "retry"
