"""What /metrics tells: Prometheus text, under the names that existing dashboards use."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from facilitator.config import Config
from facilitator.store import Counts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A method that is none of these counts as one: the label must stay bounded.
METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})


class Metrics:
    """One registry a service: several may live in one process, as in tests. `networks` are the
    chain ids of those that are told about, by name: the primary one and all that have a contract.
    """

    def __init__(self, config: Config) -> None:
        self.networks = {
            name: served.network.chain_id
            for name, served in config.networks.items()
            if name == config.primary_network or served.contract is not None
        }
        self._registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "http_requests",
            "Requests answered, by method and status.",
            ("method", "status"),
            registry=self._registry,
        )
        self._uptime = self._gauge("facilitator_uptime_seconds", "Seconds since the start.")
        self._total = self._gauge(
            "facilitator_nonce_cache_total", "Payments in the journal, whatever became of them."
        )
        self._pending = self._gauge("facilitator_nonce_cache_pending", "Payments being settled.")
        self._used = self._gauge("facilitator_nonce_cache_used", "Payments that were settled.")
        chain_ids = self._gauge("facilitator_chain_id", "Chain id of the network.")
        fee = self._gauge("facilitator_protocol_fee_bps", "The configured fee, in basis points.")
        production = self._gauge("facilitator_environment", "1 in production, 0 in development.")
        for name, chain_id in self.networks.items():
            chain_ids.labels(name).set(chain_id)
            fee.labels(name).set(config.protocol_fee_bps)
            production.labels(name).set(config.is_production)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, ("network",), registry=self._registry)

    def count_request(self, method: str, status: int) -> None:
        """A request was answered with this status."""
        known = method if method in METHODS else "other"
        self._requests.labels(known, str(status)).inc()

    def render(self, uptime_seconds: int, counts: Mapping[str, Counts]) -> bytes:
        """The text of /metrics; `counts` are those of each of `networks`."""
        for name in self.networks:
            self._uptime.labels(name).set(uptime_seconds)
            self._total.labels(name).set(counts[name].total)
            self._pending.labels(name).set(counts[name].pending)
            self._used.labels(name).set(counts[name].confirmed)
        return generate_latest(self._registry)
