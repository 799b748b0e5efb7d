"""Metrics of the real program: two processes with one role each, scraped at `probes.listen`."""

from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.config import Configure
from tests.harness.process import BridgeProcess
from tests.harness.promtool import promtool, used_metrics
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.waiting import wait_until

PROBES = {"listen": "127.0.0.1:0"}
PEOPLE = ("ann", "bob", "cy")

pytestmark = pytest.mark.slow


def get(process: BridgeProcess, path: str) -> httpx.Response:
    url = next(process.lines("probes.listening"))["url"]
    return httpx.get(url + path, trust_env=False, timeout=30)


def samples(scrape: str) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels, in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
    }


def test_every_process_has_probes_and_its_own_counts(
    configure: Configure, simulator: Simulator, receiver: Receiver
) -> None:
    receiver.script(Response(status=503, times=1))
    config = configure(rooms=["a", "b"], endpoints=[receiver.endpoint("crm", events=["peer.joined"])], probes=PROBES)
    with BridgeProcess(config, "poller") as poller, BridgeProcess(config, "sender") as sender:
        for process in (poller.wait_ready(), sender.wait_ready()):
            assert get(process, "healthz").text == "ok\n"
            assert get(process, "readyz").status_code == 200
            assert get(process, "api/v1/rooms").status_code == 404
        for name in PEOPLE:
            simulator.join("a", name)
        receiver.wait_for_count(len(PEOPLE))
        scrapes = wait_until(lambda: stable_scrapes(poller, sender), what="counts that no longer change") or []
        assert [process.stop() for process in (poller, sender)] == [0, 0]

    polls, sent = map(samples, scrapes)
    assert polls["bridge_events_total", "peer.joined"] == sent["bridge_delivery_delay_seconds_count",] == len(PEOPLE)
    assert polls["bridge_poll_duration_seconds_count", "main"] == polls["bridge_polls_total", "complete", "main"] > 4
    assert polls["bridge_poll_delay_seconds_count",] == polls["bridge_poll_duration_seconds_count", "main"]
    assert abs(polls["bridge_clock_skew_seconds", "main"]) < 5
    assert sent["bridge_delivery_attempts_total", "crm", "delivered"] == len(PEOPLE)
    assert sent["bridge_delivery_attempts_total", "crm", "retryable"] == 1
    assert sent["bridge_delivery_duration_seconds_count", "crm"] == len(PEOPLE) + 1
    for found in (polls, sent):
        assert found["bridge_peers", "main"] == len(PEOPLE)
        assert (found["bridge_rooms", "main", "occupied"], found["bridge_rooms", "main", "empty"]) == (1, 1)
        assert (found["bridge_source_up", "main"], found["bridge_endpoint_up", "crm"]) == (1, 1)
        assert (found["bridge_owed_events", "crm"], found["bridge_dead_letters", "crm"]) == (0, 0)
    assert used_metrics() <= {name for name, *_ in (*polls, *sent)}
    for scrape in scrapes:
        promtool("check", "metrics", input=scrape)


def stable_scrapes(*processes: BridgeProcess) -> list[str] | None:
    """A scrape of each process, once nothing is owed."""
    scrapes = [get(process, "metrics").text for process in processes]
    found = [samples(scrape) for scrape in scrapes]
    is_over = all(one["bridge_owed_events", "crm"] == 0 and one["bridge_peers", "main"] == len(PEOPLE) for one in found)
    return scrapes if is_over else None


def test_an_address_that_is_taken_is_a_clear_error(configure: Configure) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = configure(probes={"listen": address})
        with BridgeProcess(config, "poller") as process:
            assert process.wait() == 1
    assert f"cannot listen on {address}" in process.output
    assert "choose another address for probes.listen" in process.output
    assert "Traceback" not in process.output
