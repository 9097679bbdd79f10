"""The metrics of the service, under the names that existing dashboards use.

Every metric is declared here, but for those of the chains (`engine.metrics`). A scrape reads memory
and sends no request. Every label comes from a closed set: fixed words, configured names, route
templates. Any other value becomes "other".
"""

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from facilitator import __version__
from facilitator.config.settings import Config
from facilitator.domain.payment import TEMPORARY, Proof, Reason, Refusal
from facilitator.domain.settlement import SettlementCounts

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which says when it began
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
MALFORMED = "malformed"
REPLAYED = "replayed"
# All other methods count as "other": the label must stay bounded.
METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
SCHEMES = ("exact", "upto")
DIALECTS = ("jeju", "x402")

REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# A settlement waits for a block, at most for SETTLE_TIMEOUT_SECONDS.
SETTLEMENT_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120)
RPC_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STORE_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 5)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Metrics:
    """The metrics of one service; a process may have several services, as in tests. `routes` are
    the templates of all paths. `networks` maps names to chain ids for the metrics of existing
    dashboards: the primary network and all that have a contract.
    """

    def __init__(self, config: Config, routes: Iterable[str] = ()) -> None:
        self.networks = {
            name: served.network.chain_id
            for name, served in config.networks.items()
            if name == config.primary_network or served.contract is not None
        }
        self._routes = frozenset(routes)
        self._names = frozenset(config.networks)
        self._registry = CollectorRegistry(auto_describe=True)
        self._declare_requests()
        self._declare_payments()
        self._declare_inside()
        self._declare_dashboards(config)

    def _declare_requests(self) -> None:
        self._requests = Counter(
            "http_requests",
            "Requests answered, by method, route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "http_request_duration_seconds",
            "From a request to the last byte of its reply.",
            ("route", "status"),
            buckets=REQUEST_BUCKETS,
            registry=self._registry,
        )
        # The metrics of label values seen so far: finding one by `labels` costs more than counting.
        self._request_counters: dict[tuple[str, str, int], Counter] = {}
        self._request_timers: dict[tuple[str, int], Histogram] = {}

    def _declare_payments(self) -> None:
        names = ("dialect", "network", "scheme", "outcome", "reason")
        self._verifications = Counter(
            "facilitator_verifications",
            "POST /verify: valid, refused, or failed (it could not be told).",
            names,
            registry=self._registry,
        )
        self._settlements = Counter(
            "facilitator_settlements",
            "POST /settle: success, refused, pending, failed or replayed.",
            names,
            registry=self._registry,
        )
        self._settlement_seconds = Histogram(
            "facilitator_settlement_seconds",
            "From a request to settle to its answer.",
            ("dialect", "network", "outcome"),
            buckets=SETTLEMENT_BUCKETS,
            registry=self._registry,
        )
        # Prometheus sees no increase in a series' first value: the series that alerts watch must
        # exist from the start.
        for dialect in DIALECTS:
            for network in self._names:
                self._verifications.labels(dialect, network, "exact", "valid", "")
                self._settlements.labels(dialect, network, "exact", "success", "")

    def _declare_inside(self) -> None:
        self._store_seconds = Histogram(
            "facilitator_store_seconds",
            "How long the journal took.",
            ("operation",),
            buckets=STORE_BUCKETS,
            registry=self._registry,
        )
        self._store_errors = Counter(
            "facilitator_store_errors",
            "What the journal refused, or could not do.",
            ("operation",),
            registry=self._registry,
        )
        self._rpc_seconds = Histogram(
            "facilitator_rpc_seconds",
            "How long nodes took, a POST each.",
            ("network", "endpoint"),
            buckets=RPC_BUCKETS,
            registry=self._registry,
        )
        self.notices = Gauge(
            "facilitator_notices_up",
            "1 while outcomes that other replicas record are told at once.",
            registry=self._registry,
        )
        self.loop_lag = Histogram(
            "facilitator_event_loop_lag_seconds",
            "How late a timer of the event loop fired.",
            buckets=LAG_BUCKETS,
            registry=self._registry,
        )
        build = Gauge("facilitator_build_info", "1.", ("version",), registry=self._registry)
        build.labels(__version__).set(1)

    def _declare_dashboards(self, config: Config) -> None:
        self._uptime = self._gauge("facilitator_uptime_seconds", "Seconds since the start.")
        self._total = self._gauge(
            "facilitator_nonce_cache_total", "Payments in the journal, whatever became of them."
        )
        self._pending = self._gauge("facilitator_nonce_cache_pending", "Payments being settled.")
        self._used = self._gauge("facilitator_nonce_cache_used", "Payments that were settled.")
        chain_ids = self._gauge("facilitator_chain_id", "Chain id of the network.")
        fee = self._gauge("facilitator_protocol_fee_bps", "The configured fee, in basis points.")
        environment = Gauge(
            "facilitator_environment",
            "1; the label says in which environment the service runs.",
            ("network", "env"),
            registry=self._registry,
        )
        for name, chain_id in self.networks.items():
            chain_ids.labels(name).set(chain_id)
            fee.labels(name).set(config.protocol_fee_bps)
            environment.labels(name, config.mode).set(1)
            for gauge in (self._total, self._pending, self._used):
                gauge.labels(name)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, ("network",), registry=self._registry)

    def add(self, collector: Collector) -> None:
        """Register one more collector."""
        self._registry.register(collector)

    def count_request(self, method: str, route: str, status: int) -> None:
        """Count a request that was answered with `status`. `route` is a template or a path."""
        key = (
            method if method in METHODS else OTHER,
            route if route in self._routes else OTHER,
            status,
        )
        counter = self._request_counters.get(key)
        if counter is None:
            labelled = self._requests.labels(key[0], key[1], str(status))
            counter = self._request_counters[key] = labelled
        counter.inc()

    def time_request(self, route: str, status: int, seconds: float) -> None:
        """Record the seconds until a reply was sent, or was cut off."""
        key = (route if route in self._routes else OTHER, status)
        timer = self._request_timers.get(key)
        if timer is None:
            timer = self._request_timers[key] = self._request_seconds.labels(key[0], str(status))
        timer.observe(seconds)

    def verified(
        self, dialect: str, network: str | None, scheme: str | None, refusal: Refusal | str | None
    ) -> None:
        """Count a POST /verify by its refusal or MALFORMED; None where the payment is valid."""
        outcome = "valid" if refusal is None else _outcome(refusal)
        labels = (dialect, self._network(network), _scheme(scheme), outcome, _reason(refusal))
        self._verifications.labels(*labels).inc()

    def settled(
        self,
        dialect: str,
        network: str | None,
        scheme: str | None,
        result: Proof | Refusal | str,
        seconds: float,
    ) -> None:
        """Count a POST /settle by its result, or MALFORMED or REPLAYED, and the `seconds` taken."""
        outcome, reason = _outcome(result), _reason(result)
        network = self._network(network)
        self._settlements.labels(dialect, network, _scheme(scheme), outcome, reason).inc()
        self._settlement_seconds.labels(dialect, network, outcome).observe(seconds)

    def _network(self, name: str | None) -> str:
        return name if name in self._names else OTHER

    def store_timers(self, operation: str) -> tuple[Histogram, Counter]:
        """Return the timer and the error counter of one of the journal's operations."""
        return self._store_seconds.labels(operation), self._store_errors.labels(operation)

    def rpc_timer(self, network: str, endpoint: str) -> Histogram:
        """Return the timer of the POSTs to one endpoint."""
        return self._rpc_seconds.labels(network, endpoint)

    def count_rows(self, network: str, counts: SettlementCounts) -> None:
        """Set how many settlements of a network the journal holds, in each state."""
        self._total.labels(network).set(counts.total)
        self._pending.labels(network).set(counts.pending)
        self._used.labels(network).set(counts.states.get("confirmed", 0))

    def render(self, uptime_seconds: int) -> bytes:
        """Return the text of /metrics, in Prometheus' format."""
        for name in self.networks:
            self._uptime.labels(name).set(uptime_seconds)
        return generate_latest(self._registry)


def _outcome(result: Proof | Refusal | str) -> str:
    if isinstance(result, Proof):
        return "success"
    if isinstance(result, str):
        return result if result == REPLAYED else "refused"
    if result.reason is Reason.SETTLEMENT_PENDING:
        return "pending"
    return "failed" if result.reason in TEMPORARY else "refused"


def _reason(result: Proof | Refusal | str | None) -> str:
    if isinstance(result, Refusal):
        return str(result.reason)
    return MALFORMED if result == MALFORMED else ""


def _scheme(scheme: str | None) -> str:
    return scheme if scheme in SCHEMES else OTHER
