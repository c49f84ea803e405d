# mypy: ignore-errors
"""A crawler with icrawler: ``icrawler_files.py list|pages INPUT OUTPUT THREADS``. INPUT: a file of URLs.

icrawler's own crawler of whole sites loses pages when its queue is full, so the pages are given. icrawler is
installed in an environment of its own.
"""

import logging
import sys
from urllib.parse import urljoin

from bs4 import BeautifulSoup
from icrawler import Crawler, ImageDownloader, Parser, UrlListFeeder
from icrawler.builtin.urllist import PseudoParser


class GalleryParser(Parser):
    def parse(self, response):
        soup = BeautifulSoup(response.content, "lxml")
        urls = {urljoin(response.url, tag["href"]) for tag in soup.find_all("a", href=True)}
        urls |= {urljoin(response.url, tag["src"]) for tag in soup.find_all("img", src=True)}
        return [{"file_url": url} for url in urls if url.endswith(".jpg")]


def main() -> None:
    kind, given, output, threads = sys.argv[1:]
    crawler = Crawler(
        UrlListFeeder,
        PseudoParser if kind == "list" else GalleryParser,
        ImageDownloader,
        downloader_threads=int(threads),
        storage={"root_dir": output},
        log_level=logging.CRITICAL,
    )
    # Without these, its threads wait for two and five seconds at the end.
    crawler.crawl(
        feeder_kwargs={"url_list": given},
        parser_kwargs={"queue_timeout": 1},
        downloader_kwargs={"max_num": 0, "queue_timeout": 1},
    )


if __name__ == "__main__":
    main()
