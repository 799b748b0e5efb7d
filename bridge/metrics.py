"""The metrics of one process: names, labels and values are those of docs/operations.md, "Metrics".

Counters and histograms are updated where the facts are known, in children that are bound once per source or endpoint.
Gauges are read from the database at a scrape (`bridge.admin.gauges`). No room, peer or person is ever a label.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from bridge import __version__
from bridge.events.types import EventType
from bridge.rules.delivery import Outcome
from bridge.rules.presence import FailureKind

HOOKS: Final = "hooks"
"""The label that all REST hooks share: there may be thousands, and no-code tools name them at random."""
_QUICK: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LATE: Final = (*_QUICK, 60, 300, 900, 3600)

disable_created_metrics()  # type: ignore[no-untyped-call]  # it doubles the series, and Prometheus ignores them


class PollOutcome(StrEnum):
    """Outcome of a poll that is no `FailureKind`."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    SKIPPED = "skipped"
    FENCED = "fenced"


class PokeOutcome(StrEnum):
    """Outcome of a poke."""

    DUE = "due"
    """Its room is polled at once."""
    UNTRACKED = "untracked"
    NO_ROOM = "no_room"
    REPEATED = "repeated"
    """The same message came before."""
    REFUSED = "refused"
    """The upstream did not sign it, or too long ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceGauges:
    """State of a source: `rooms` is the number of its tracked rooms by state."""

    source: str
    is_up: bool
    rooms: Mapping[str, int]
    peers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointGauges:
    """State and backlog of the endpoints that share a label."""

    endpoint: str
    is_up: bool
    owed_events: int
    oldest_owed: timedelta
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The facts in the database."""

    sources: Sequence[SourceGauges]
    endpoints: Sequence[EndpointGauges]


@dataclass(frozen=True, slots=True)
class SourceMetrics:
    """The metrics of one source."""

    _polls: Mapping[str, Counter] = field(repr=False)
    _duration: Histogram
    _delay: Histogram
    _name: str
    _clock_skew: Gauge

    def count_poll(self, outcome: str) -> None:
        self._polls[outcome].inc()

    def observe_request(self, *, delay: timedelta, duration: timedelta) -> None:
        """A poll that was sent: `delay` is the time from due time to request."""
        self._delay.observe(max(delay.total_seconds(), 0))
        self._duration.observe(max(duration.total_seconds(), 0))

    def show_clock_skew(self, skew: timedelta | None) -> None:
        if skew is None:
            self._clock_skew.remove_by_labels({"source": self._name})
            return
        self._clock_skew.labels(self._name).set(skew.total_seconds())


@dataclass(frozen=True, slots=True)
class EndpointMetrics:
    """The metrics of the endpoints that share a label."""

    _attempts: Mapping[str, Counter] = field(repr=False)
    _duration: Histogram
    _delay: Histogram

    def count_attempt(self, outcome: str, duration: timedelta) -> None:
        self._attempts[outcome].inc()
        self._duration.observe(max(duration.total_seconds(), 0))

    def observe_delay(self, delay: timedelta) -> None:
        """Time from the writing of an event to the first attempt to deliver it."""
        self._delay.observe(max(delay.total_seconds(), 0))


class Metrics:
    """All metrics of this process; with an endpoint or a source, its series begin and end."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        Info("bridge_build", "Version of the program.", registry=registry).info({"version": __version__})

        self._polls = _counter(registry, "bridge_polls", "Polls.", "source", "outcome")
        self._poll_duration = _histogram(
            registry, "bridge_poll_duration_seconds", "Time from request to response of a poll.", "source"
        )
        self._poll_delay = _histogram(
            registry, "bridge_poll_delay_seconds", "Time from due time to request of a poll.", buckets=_LATE
        )
        self._clock_skew = _gauge(
            registry, "bridge_clock_skew_seconds", "Lead of this machine's clock over that of the source.", "source"
        )
        self._pokes = _counter(registry, "bridge_pokes", "Messages from the upstream itself.", "source", "outcome")
        self._events = _counter(registry, "bridge_events", "Events written to the log.", "type")
        self._attempts = _counter(
            registry, "bridge_delivery_attempts", "Attempts to deliver an event.", "endpoint", "outcome"
        )
        self._delivery_duration = _histogram(
            registry, "bridge_delivery_duration_seconds", "Duration of an attempt.", "endpoint"
        )
        self._delivery_delay = _histogram(
            registry, "bridge_delivery_delay_seconds", "Time from event written to first attempt.", buckets=_LATE
        )

        self._source_up = _gauge(registry, "bridge_source_up", "1 while the source can be polled, else 0.", "source")
        self._rooms = _gauge(registry, "bridge_rooms", "Tracked rooms.", "source", "state")
        self._peers = _gauge(registry, "bridge_peers", "Peers that are present.", "source")
        self._endpoint_up = _gauge(
            registry, "bridge_endpoint_up", "1 while the endpoint is active and its circuit closed, else 0.", "endpoint"
        )
        self._owed_events = _gauge(
            registry, "bridge_owed_events", "Events from the last acknowledged to the newest wanted one.", "endpoint"
        )
        self._oldest_owed = _gauge(
            registry, "bridge_oldest_owed_seconds", "Age of the oldest owed event, 0 if none is owed.", "endpoint"
        )
        self._dead_letters = _gauge(registry, "bridge_dead_letters", "Events that were given up.", "endpoint")

        self._by_event_type = {kind.value: self._events.labels(kind.value) for kind in EventType}
        self._by_source: dict[str, SourceMetrics] = {}
        self._by_endpoint: dict[str, EndpointMetrics] = {}

    # Counters and histograms

    def of_source(self, name: str) -> SourceMetrics:
        found = self._by_source.get(name)
        if found is None:
            found = self._by_source[name] = SourceMetrics(
                {outcome.value: self._polls.labels(name, outcome.value) for outcome in (*PollOutcome, *FailureKind)},
                self._poll_duration.labels(name),
                self._poll_delay,
                name,
                self._clock_skew,
            )
        return found

    def of_endpoint(self, label: str) -> EndpointMetrics:
        """The metrics of an endpoint; `label` is its name, or `HOOKS`."""
        found = self._by_endpoint.get(label)
        if found is None:
            found = self._by_endpoint[label] = EndpointMetrics(
                {outcome.value: self._attempts.labels(label, outcome.value) for outcome in Outcome},
                self._delivery_duration.labels(label),
                self._delivery_delay,
            )
        return found

    def count_poke(self, source: str, outcome: PokeOutcome) -> None:
        self._pokes.labels(source, outcome.value).inc()

    def count_events(self, counts: Mapping[str, int]) -> None:
        """Events that were committed, by type."""
        for kind, count in counts.items():
            self._by_event_type[kind].inc(count)

    @property
    def endpoint_labels(self) -> frozenset[str]:
        """The endpoints that have been attempted."""
        return frozenset(self._by_endpoint)

    @property
    def clock_skews(self) -> dict[str, timedelta]:
        """Lead of this machine's clock, by source, as far as this process has measured it."""
        samples = [sample for metric in self._clock_skew.collect() for sample in metric.samples]
        return {sample.labels["source"]: timedelta(seconds=sample.value) for sample in samples}

    def keep_sources(self, names: Collection[str]) -> None:
        """End the series of sources that this process no longer polls."""
        for name in self._by_source.keys() - names:
            del self._by_source[name]
            for metric in (self._polls, self._poll_duration, self._clock_skew, self._pokes):
                metric.remove_by_labels({"source": name})

    def forget_endpoints(self, labels: Collection[str]) -> None:
        """End the series of endpoints that were removed."""
        for label in labels & self._by_endpoint.keys():
            del self._by_endpoint[label]
            for metric in (self._attempts, self._delivery_duration):
                metric.remove_by_labels({"endpoint": label})

    # Gauges

    def show(self, gauges: Gauges | None) -> None:
        """Replace the facts of the database; None: they cannot be read, so there are none."""
        for gauge in (self._source_up, self._rooms, self._peers):
            gauge.clear()
        for gauge in (self._endpoint_up, self._owed_events, self._oldest_owed, self._dead_letters):
            gauge.clear()
        for one in gauges.sources if gauges else ():
            self._source_up.labels(one.source).set(one.is_up)
            self._peers.labels(one.source).set(one.peers)
            for state, count in one.rooms.items():
                self._rooms.labels(one.source, state).set(count)
        for each in gauges.endpoints if gauges else ():
            self._endpoint_up.labels(each.endpoint).set(each.is_up)
            self._owed_events.labels(each.endpoint).set(each.owed_events)
            self._oldest_owed.labels(each.endpoint).set(each.oldest_owed.total_seconds())
            self._dead_letters.labels(each.endpoint).set(each.dead_letters)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, in the format that an `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def endpoint_label(name: str, origin: str) -> str:
    """The label of an endpoint: REST hooks share one."""
    return HOOKS if origin == "hook" else name


def _counter(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=registry)


def _gauge(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=registry)


def _histogram(
    registry: CollectorRegistry, name: str, text: str, *labels: str, buckets: Sequence[float] = _QUICK
) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=registry)
