"""`bridge listen` as a process, with posts signed by the PyPI package, by the SDK's recipe, and by our own code."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from bridge.rules.signing import Ed25519Secret, generate_signing_key, parse_secret, sign
from tests.harness.process import Bridge

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PREVIOUS_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
FOREIGN_SECRET = "whsec_" + "QUJD" * 10
SIGNING_KEY = parse_secret(generate_signing_key(bytes(range(32))))
assert isinstance(SIGNING_KEY, Ed25519Secret)
PUBLIC_KEY = str(SIGNING_KEY.public_key)
ids = (f"evt_{number:026d}" for number in count(1))

Headers = Mapping[str, str]


class Listener(Bridge):
    """`bridge listen` on a free port."""

    def __init__(self, directory: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        super().__init__("listen", "--port", "0", *arguments, directory=directory, env=env)
        line = self.wait_for_output("listening on ")
        self.url = line.removeprefix("listening on ").split()[0]

    def post(self, body: bytes, headers: Headers) -> int:
        content_type = {"content-type": "application/json"}
        response = httpx.post(
            f"{self.url}hooks/crm", content=body, headers={**content_type, **headers}, trust_env=False, timeout=30
        )
        return response.status_code

    def deliver(self, *, secret: str = SECRET, marks: Headers | None = None, **facts: Any) -> tuple[int, str]:  # noqa: ANN401 - of `event`
        """Post a signed event; returns the status and the event's id."""
        event_id = next(ids)
        body = event(event_id, **facts)
        return self.post(body, {**signed(event_id, body, secret=secret), **(marks or {})}), event_id


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    secrets = [f"--secret={secret}" for secret in (SECRET, PREVIOUS_SECRET, PUBLIC_KEY)]
    with Listener(tmp_path_factory.mktemp("listen"), *secrets) as program:
        yield program


def event(event_id: str, *, room: str = "abc-defg-hij", sequence: int = 1, name: str = "akmo3.eth") -> bytes:
    facts = {"room_id": room, "room_name": f"Room {room}", "sequence": sequence, "display_name": name}
    document = {"id": event_id, "type": "peer.left", "timestamp": "2026-11-23T09:29:59.007Z", "data": facts}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def signed(event_id: str, body: bytes, *, secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    moment = at or datetime.now(UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, moment, body.decode()),
    }


def test_a_delivery_is_verified_and_printed_in_one_line(listener: Listener) -> None:
    status, event_id = listener.deliver(sequence=42)
    assert status == 204
    line = listener.wait_for_output(event_id)
    for part in ("Room abc-defg-hij"[:15], "#42", "peer.left", "akmo3.eth", "✓ verified"):
        assert part in line


def test_v1a_is_verified_with_the_public_key(listener: Listener) -> None:
    event_id, now = next(ids), int(time.time())
    body = event(event_id, room="v1a")
    signature = sign([SIGNING_KEY], webhook_id=event_id, timestamp=now, body=body)
    headers = {"webhook-id": event_id, "webhook-timestamp": str(now), "webhook-signature": signature}
    assert signature.startswith("v1a,")
    assert listener.post(body, headers) == 204
    assert listener.post(body.replace(b"akmo", b"okmo"), headers) == 401
    assert "✓ verified" in listener.wait_for_output(event_id)


def test_another_secret_does_not_verify(listener: Listener) -> None:
    status, event_id = listener.deliver(room="foreign", secret=FOREIGN_SECRET)
    assert status == 401
    line = listener.wait_for_output(event_id)
    assert "✗ not verified" in line
    assert "no signature" in line


def test_an_unsigned_post_is_rejected(listener: Listener) -> None:
    assert listener.post(b"hello", {}) == 401
    assert listener.post(b"", {}) == 401
    assert (
        listener.post(b"\xff\xfe{", {"webhook-id": "x", "webhook-timestamp": "soon", "webhook-signature": "?"}) == 401
    )
    assert "webhook-id is missing" in listener.wait_for_output("webhook-id is missing")
    assert httpx.get(listener.url, trust_env=False).status_code == 405


def test_a_repeated_id_is_pointed_out(listener: Listener) -> None:
    event_id = next(ids)
    body, other = event(event_id, room="twice"), event(event_id, room="twice", name="another name")
    assert [listener.post(sent, signed(event_id, sent)) for sent in (body, body, other)] == [204, 204, 204]
    listener.wait_for_output("ANOTHER BODY")
    first, second, third = (line for line in listener.output.splitlines() if event_id in line)
    assert "duplicate" not in first
    assert second.endswith("duplicate: this id was received before")
    assert third.endswith("duplicate: this id was received before, with ANOTHER BODY")


def test_sequences_that_do_not_go_up_by_one_are_pointed_out(listener: Listener) -> None:
    remarks = {}
    for sequence in (7, 8, 11, 10, 12):
        _, event_id = listener.deliver(room="numbers", sequence=sequence)
        remarks[sequence] = listener.wait_for_output(event_id).partition(event_id)[2].strip()
    assert remarks[7] == remarks[8] == remarks[12] == ""
    assert remarks[11].startswith("gap after #8")
    assert remarks[10] == "out of order: after #11"


def test_replays_and_tests_are_outside_the_order(listener: Listener) -> None:
    for sequence, mark in ((5, None), (2, "replay"), (9, "test"), (6, None)):
        marks = {} if mark is None else {f"bridge-{mark}": "true"}
        _, event_id = listener.deliver(room="marks", sequence=sequence, marks=marks)
        assert listener.wait_for_output(event_id).partition(event_id)[2].strip() == (mark or "")


def test_a_forged_delivery_neither_causes_nor_hides_a_remark(listener: Listener) -> None:
    first, second = next(ids), next(ids)
    body = event(first, room="forged", sequence=1)
    forged = event(second, room="forged", sequence=9)
    true = event(second, room="forged", sequence=2)
    assert listener.post(body, signed(first, body)) == 204
    assert listener.post(forged, signed(second, forged, secret=FOREIGN_SECRET)) == 401
    assert listener.post(true, signed(second, true)) == 204
    assert listener.wait_for_output(f"✓ verified  {second}").endswith(second)


def test_a_body_cannot_control_the_terminal(listener: Listener) -> None:
    _, event_id = listener.deliver(room="\x1b[2Jterminal", name="\x9b31mred\r\nnext line")
    line = listener.wait_for_output(event_id)
    assert "\\x1b[2J" in line
    assert not {"\x1b", "\x9b", "\r"} & set(listener.output)


def test_a_body_over_the_limit_is_rejected(listener: Listener) -> None:
    assert listener.post(b"x" * (9 * 1024 * 1024), {}) == 413
    assert "larger than" in listener.wait_for_output("larger than")


def test_json_prints_the_verified_bodies_and_nothing_else_on_stdout(tmp_path: Path) -> None:
    with Listener(tmp_path, "--json", "--secret", SECRET) as program:
        good, bad = next(ids), next(ids)
        bodies = {event_id: event(event_id, name="山田 花子") for event_id in (good, bad)}
        assert program.post(bodies[bad], signed(bad, bodies[bad], secret=FOREIGN_SECRET)) == 401
        assert program.post(bodies[good], signed(good, bodies[good])) == 204
        pretty = json.dumps(json.loads(bodies[good]), indent=2).encode()
        assert program.post(pretty, signed(good, pretty)) == 204
        assert program.stop(signal.SIGINT) == 0
    assert list(program.lines()) == [json.loads(bodies[good])] * 2
    assert program.output.count("not verified") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    with Listener(tmp_path, "--secret", SECRET) as program:
        assert program.stop(number) == 0
    assert "Traceback" not in program.output


def test_count_ends_it_with_exit_code_3_if_one_did_not_verify(tmp_path: Path) -> None:
    for secrets, code in (((SECRET, SECRET), 0), ((SECRET, FOREIGN_SECRET), 3)):
        with Listener(tmp_path, "--count", "2", "--secret", SECRET) as program:
            for secret in secrets:
                program.deliver(secret=secret)
            assert program.wait() == code
    assert "1 of 2 deliveries did not verify" in program.output


def test_secrets_can_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{PREVIOUS_SECRET}\n")
    arguments = ["--secret", "env:HOOK_SECRET", "--secret-file", "secret"]
    with Listener(tmp_path, *arguments, env={"HOOK_SECRET": SECRET}) as program:
        for secret in (SECRET, PREVIOUS_SECRET):
            assert program.deliver(secret=secret)[0] == 204


def test_deliveries_of_style_huddle01_are_verified(tmp_path: Path) -> None:
    key, event_id = "the key of a projectö", next(ids)
    body = json.dumps({"id": event_id, "event": "peer:joined", "payload": {"roomId": "abc"}}).encode()

    def header(timestamp: int, api_key: str = key) -> Headers:
        content = f"{event_id}.{timestamp}.".encode() + body
        mac = hmac.new(api_key.encode(), content, hashlib.sha256).hexdigest()
        return {"huddle01-signature": f"t={timestamp},sha256={mac}"}

    now = int(time.time() * 1000)
    with Listener(tmp_path, "--style", "huddle01", "--secret", "old key", "--secret", key) as program:
        assert program.post(body, header(now)) == 204
        assert "peer:joined" in program.wait_for_output("✓ verified")
        assert program.post(body, header(now, "another key")) == 401
        assert program.post(body.replace(b"abc", b"abd"), header(now)) == 401
        assert program.post(body, header(now - 360_000)) == 401
        assert program.post(body, {}) == 401
        assert program.post(b"[]", header(now)) == 401


def run_refused(directory: Path, *arguments: str) -> tuple[int, str]:
    with Bridge("listen", *arguments, directory=directory) as program:
        return program.wait(), program.output


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = run_refused(tmp_path, "--port", str(port), "--secret", SECRET)
    assert code == 1
    assert f"127.0.0.1:{port}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--secret", "topsecret"],
        ["--secret", "whsec_topsecret"],
        ["--secret", "env:NOT_SET"],
        ["--secret-file", "no"],
    ],
    ids=["none", "no prefix", "too short", "not set", "no file"],
)
def test_without_a_usable_secret_it_does_not_start(tmp_path: Path, arguments: list[str]) -> None:
    code, output = run_refused(tmp_path, *arguments)
    assert code == 2
    assert output.startswith("bridge: ")
    assert "topsecret" not in output
