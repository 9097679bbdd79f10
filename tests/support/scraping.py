"""What a service's /metrics says, parsed by Prometheus' own client."""

import asyncio
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import Service

SEEN_WITHIN = 60.0  # seconds: what is looked at now and then was looked at again


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {each.name: each for each in text_string_to_metric_families(text)}
        self.samples = [sample for each in self.families.values() for sample in each.samples]

    def values(self, name: str, **labels: str) -> list[float]:
        """Of all samples of this name that carry these labels."""
        return [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        """Of all of them together; 0 where there is none."""
        return sum(self.values(name, **labels))

    def label_values(self, label: str) -> set[str]:
        """Every value that this label has anywhere."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


async def scrape(service: Service, url: str | None = None) -> Scrape:
    """One scrape, of `url` or of the service's own listener."""
    async with service.session.get((url or service.url) + "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return Scrape(await response.text())


async def scrape_until(service: Service, told: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape that `told` is true of."""
    async with asyncio.timeout(SEEN_WITHIN):
        while True:
            seen = await scrape(service)
            if told(seen):
                return seen
            await asyncio.sleep(0.2)
