"""The frontier's part of the settings."""

from crawler.config import CrawlConfig
from crawler.frontier.politeness import Policy


def policy(config: CrawlConfig) -> Policy:
    """What the frontier goes by: pace, order, bounds."""
    return Policy(
        delay=config.politeness.delay,
        per_host=config.politeness.per_host,
        robots=config.politeness.robots,
        sitemaps=config.harvest.reads_sitemaps,
        order=config.crawl.order,
        patience=config.crawl.patience,
        max_images=config.crawl.max_images,
        max_pages=config.crawl.max_pages,
        max_host_pages=config.crawl.max_host_pages,
        max_host_images=config.crawl.max_host_images,
    )
