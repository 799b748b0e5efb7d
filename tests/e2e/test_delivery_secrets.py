"""Secrets are in no database, database file, dump or log line, and `ps` does not show them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.harness.config import API_KEY, Configure
from tests.harness.process import READY, BridgeProcess, Process, bridge_command, command
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.tables import change, everything
from tests.harness.waiting import wait_until

HEADER = "Bearer hush-hush-0123456789"
FIRST, SECOND, THIRD = "the first key; long and random", "a second key; as long", "a third key; unknown"


@pytest.mark.slow
def test_secrets_are_nowhere_in_clear_and_keys_can_be_rotated(
    configure: Configure,
    tmp_path: Path,
    migrated_url: str,
    simulator: Simulator,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(
        rooms=["room"],
        endpoints=[
            receiver.endpoint("given", headers={"Authorization": HEADER}),
            {"name": "made", "url": f"{receiver.url}/made", "headers": {"X-Auth": HEADER}},
        ],
        log={"level": "debug"},
    )
    receiver.script(Response(status=500, body=HEADER.encode()[:6], times=2), Response(reset=True, times=1))
    run = bridge_command("run", "--config", str(config))  # a process of its own, for what `ps` shows
    with Process(run, tmp_path, env={"BRIDGE_ENCRYPTION_KEY": FIRST}) as program:
        program.wait_for_output(READY)
        simulator.join("room", "anna")
        receiver.wait_for_count(2)
        wait_until(lambda: "/made" in {one.path for one in receiver.accepted}, what="the other endpoint's")
        monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", FIRST)
        made = command(config, "endpoints", "show", "made", "--reveal").partition("whsec_")[2].split()[0]
        rotated = command(config, "endpoints", "rotate", "made").strip()
        program.send(signal.SIGHUP)
        program.wait_for_output("configuration.reloaded")
        shown = Path(f"/proc/{program.pid}/cmdline").read_bytes().decode()
        assert program.stop() == 0
        outputs = [program.output, shown]
    files = [file.read_bytes().decode("latin-1") for file in tmp_path.glob("bridge.db*")]
    secrets = [receiver.secret.removeprefix("whsec_"), made, rotated.removeprefix("whsec_"), HEADER, API_KEY, FIRST]
    places = [*outputs, everything(migrated_url), *files]
    assert [(place[:60], secret) for secret in secrets for place in places if secret in place] == []

    count = len(receiver.accepted)
    with BridgeProcess(config, env={"BRIDGE_ENCRYPTION_KEY": f"{SECOND},{FIRST}"}) as program:
        simulator.join("room", "bert")
        wait_until(lambda: len(receiver.accepted) >= count + 2, what="Bert at both")
        assert program.stop() == 0
    last = {one.path: one for one in receiver.accepted[count:]}
    assert last["/given"].headers["authorization"] == last["/made"].headers["x-auth"] == HEADER

    count = len(receiver.accepted)
    with BridgeProcess(config, env={"BRIDGE_ENCRYPTION_KEY": SECOND}) as program:
        simulator.join("room", "carl")
        wait_until(lambda: len(receiver.accepted) >= count + 2, what="Carl at both, without the old key")
        assert program.stop() == 0
    count = len(receiver.accepted)
    with BridgeProcess(config, env={"BRIDGE_ENCRYPTION_KEY": THIRD}) as program:
        simulator.join("room", "dora")
        program.wait_for_output("BRIDGE_ENCRYPTION_KEY")
        wait_until(lambda: len(receiver.accepted) > count, what="Dora at the endpoint whose secret is in the file")
        assert program.stop() == 0
        assert {one.path for one in receiver.accepted[count:]} == {"/given"}
        assert "Traceback" not in program.output


@pytest.mark.slow
@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_secret_that_cannot_be_decrypted_stops_only_its_own_endpoint(
    configure: Configure, migrated_url: str, simulator: Simulator, receiver: Receiver
) -> None:
    """As after a key was removed too early. The endpoint is added by a command: no file has its secret."""
    config = configure(rooms=["room"], endpoints=[receiver.endpoint("fine")])
    command(config, "endpoints", "add", "locked", f"{receiver.url}/locked")
    change(
        migrated_url,
        "UPDATE endpoint_secrets SET ciphertext = 'ciphertext:gAAAAA' WHERE endpoint_key ="
        " (SELECT id FROM endpoints WHERE name = 'locked')",
    )
    with BridgeProcess(config) as program:
        simulator.join("room", "anna")
        receiver.wait_for_count(2)
        simulator.join("room", "bert")
        receiver.wait_for_count(3)
        assert "BRIDGE_ENCRYPTION_KEY" in program.output, "the log has no reason why the other gets nothing"
        assert "Traceback" not in program.output
        assert program.stop() == 0
    assert {one.path for one in receiver.deliveries} == {"/fine"}
