"""The headers of requests, the same for every fetcher."""

import re

from crawler.model import Request
from crawler.net.cookies import Cookies
from crawler.net.fetcher import Conditions
from crawler.net.referrer import referrer_for
from crawler.version import __version__

#: Headers of a conditional request that is answered with 304 (RFC 9110 §13.1).
CONDITIONAL = frozenset({"If-None-Match", "If-Modified-Since"})
#: Default ``User-Agent`` header.
USER_AGENT = f"imgcrawler/{__version__}"

_EMAIL = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,255}")


class RequestHeaders:
    """The headers of one fetcher's requests.

    Args:
        user_agent: the ``User-Agent`` header.
        contact: value of the ``From`` header if it is an e-mail address (RFC 9110 §10.1.2).
        cookies: the user's cookies; default: none.
    """

    def __init__(self, user_agent: str = USER_AGENT, contact: str = "", cookies: Cookies | None = None) -> None:
        self._common = {"User-Agent": user_agent}
        if _EMAIL.fullmatch(contact):
            self._common["From"] = contact
        self.cookies = cookies or Cookies()

    def of(self, request: Request, conditions: Conditions) -> dict[str, str]:
        """Return the headers of a request, without validators: a request to resume a body has none."""
        is_image = conditions.accept.startswith("image/")
        encoding = "identity" if is_image else "gzip, deflate"
        headers = {**self._common, "Accept": conditions.accept, "Accept-Encoding": encoding}
        referrer = referrer_for(request.referrer, request.location, request.referrer_policy)
        if referrer:
            headers["Referer"] = referrer
        cookie = self.cookies.header(request)
        if cookie:
            headers["Cookie"] = cookie
        return headers


def validators(conditions: Conditions) -> dict[str, str]:
    """Return the headers of a conditional request (RFC 9110 §13.1)."""
    headers = {"If-None-Match": conditions.etag, "If-Modified-Since": conditions.last_modified}
    return {name: value for name, value in headers.items() if value}
