"""The commands with a source of kind `livekit`; a scripted server responds as LiveKit does."""

from __future__ import annotations

import json

from tests.cli.conftest import ROOM, Cli
from tests.harness.doctor_runs import examine, http_response, only
from tests.harness.wire import RawReceiverThread, Wire

ANN = {"sid": "PA_1", "identity": "ann", "state": "ACTIVE", "name": "Ann"}


def test_doctor_poll_and_reconcile(cli: Cli) -> None:
    participants = [ANN]

    async def respond(wire: Wire) -> None:
        listed = {"rooms": []} if "ListRooms" in wire.request.line else {"participants": participants}
        await wire.send(http_response(json.dumps(listed).encode()))

    with RawReceiverThread(respond) as upstream:
        account = {"kind": "livekit", "base_url": f"ws://{upstream.host}", "api_secret": "s" * 32}
        cli.configure(sources={"meet": account}, rooms=[ROOM])
        found = examine(cli)
        cli.take_up()
        joined = cli("poll", ROOM).out
        person = json.loads(cli("attendance", "show", "--format", "json").out)[0]["person_key"]
        participants.clear()
        left = cli("poll", ROOM).out
        reconciled = cli("attendance", "reconcile").out

    assert only(found, "api_key", "meet")["state"] == "ok"
    assert only(found, "room", ROOM)["detail"] == "not polled before; live now, 1 peer"
    assert "Ann" in joined
    assert "Ann" in left
    assert person == "ann"
    assert "this kind of source keeps no record" in reconciled


def test_a_wrong_secret_is_named_beside_the_key(cli: Cli) -> None:
    refusal = http_response(
        b"invalid token: x, error: go-jose: error in cryptographic primitive", status="401 Unauthorized"
    )
    with RawReceiverThread(refusal) as upstream:
        account = {"kind": "livekit", "base_url": f"http://{upstream.host}", "api_secret": "s" * 32}
        cli.configure(sources={"meet": account})
        key = only(examine(cli, code=1), "api_key", "meet")

    assert key["detail"] == "key refused (401)"
    assert key["advice"].startswith("correct api_key and api_secret under [sources.meet]")
