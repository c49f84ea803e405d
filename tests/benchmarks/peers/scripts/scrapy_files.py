# mypy: ignore-errors
"""A spider with Scrapy's FilesPipeline: ``scrapy_files.py list|crawl INPUT OUTPUT IN_FLIGHT``.

INPUT is a file of URLs, or the URL of a site. Scrapy is installed in an environment of its own.
"""

import sys
from pathlib import Path

import scrapy
from scrapy.crawler import CrawlerProcess

#: The attributes that an author of a spider would think of.
NAMED = "//a/@href | //img/@src | //img/@data-src | //source/@srcset | //link/@href | //meta/@content | //video/@poster"


class ListSpider(scrapy.Spider):
    name = "list"

    async def start(self):
        yield scrapy.Request("data:,")  # without a request, Scrapy looks only every five seconds whether it is idle

    def parse(self, response):
        for url in Path(self.given).read_text().split():
            yield {"file_urls": [url]}


class GallerySpider(scrapy.Spider):
    name = "gallery"

    async def start(self):
        yield scrapy.Request(self.given)

    def parse(self, response):
        urls = [response.urljoin(url) for url in response.xpath(NAMED).getall()]
        yield {"file_urls": [url for url in urls if url.endswith(".jpg")]}
        yield from (scrapy.Request(url) for url in urls if url.endswith((".html", "/")))


def main() -> None:
    kind, given, output, in_flight = sys.argv[1:]
    settings = {
        "ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1},
        "FILES_STORE": output,
        "CONCURRENT_REQUESTS": int(in_flight),
        "CONCURRENT_REQUESTS_PER_DOMAIN": int(in_flight),
        "DOWNLOAD_DELAY": 0,
        "COOKIES_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "WARNING",
    }
    process = CrawlerProcess(settings)
    process.crawl(ListSpider if kind == "list" else GallerySpider, given=given)
    process.start()


if __name__ == "__main__":
    main()
