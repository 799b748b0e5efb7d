"""Snippets of the pages, run: with deliveries that they should accept, and others."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from bridge.events.formats import Format
from bridge.rules.signing import generate_secret
from tests.docs import pages
from tests.docs.requests import Send, flipped, without
from tests.harness import oracles
from tests.harness.receiver import Delivery

OTHER = generate_secret(b"o" * 32)
TOO_OLD, TOO_NEW = timedelta(seconds=310), timedelta(seconds=-310)

VERIFY = """
import { buffer } from "node:stream/consumers";
import { verified } from "./snippet.mjs";

for (const { first, headers, body, asText } of JSON.parse(await buffer(process.stdin))) {
  const bytes = Buffer.from(body, "base64");
  try {
    console.log(JSON.stringify(await verified(...first, headers, asText ? bytes.toString() : bytes)));
  } catch {
    console.log("null");
  }
}
"""
POST = """
import { once } from "node:events";
import { createServer } from "node:http";
import { buffer } from "node:stream/consumers";
import * as snippet from "./snippet.mjs";

const server = snippet.server ?? createServer(snippet.app);
console.log = () => {};
await once(server.listen(0, "127.0.0.1"), "listening");
const statuses = [];
for (const { headers, body } of JSON.parse(await buffer(process.stdin))) {
  const { host, "content-length": length, ...rest } = headers;
  const sent = { method: "POST", headers: rest, body: Buffer.from(body, "base64") };
  statuses.push((await fetch(`http://127.0.0.1:${server.address().port}/hooks/presence`, sent)).status);
}
process.stdout.write(JSON.stringify(statuses));
server.close();
server.closeAllConnections();
"""


def python(page: Path, *names: str, into: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run Python snippets of a page, one after the other, and return the names that they define."""
    namespace: dict[str, Any] = {} if into is None else into
    for name in names:
        exec(compile(pages.block(page, f"python: {name}"), f"{name}.py", "exec"), namespace)  # noqa: S102 - our own page
    return namespace


def run_javascript(
    directory: Path, name: str, driver: str, requests: Sequence[dict[str, Any]], page: Path = pages.VERIFYING
) -> str:
    """Run a driver above with a JavaScript snippet of a page, and return its output."""
    oracles.require_oracles()
    (directory / "node_modules").symlink_to(oracles.ORACLES / "node_modules")
    (directory / "snippet.mjs").write_text(pages.block(page, f"javascript: {name}"), encoding="utf-8")
    script = directory / "driver.mjs"
    script.write_text(driver, encoding="utf-8")
    return oracles.node(str(script), input=json.dumps(requests))


def request(delivery: Delivery, *first: str, as_text: bool = False) -> dict[str, Any]:
    body = base64.b64encode(delivery.body).decode()
    return {"first": first, "headers": delivery.headers, "body": body, "asText": as_text}


async def deliveries(send: Send, *secrets: str, other: str, style: Format = Format.STANDARD) -> list[Delivery]:
    """A genuine delivery, then others: changed, unsigned, of another sender, too old, too new."""
    genuine = await send(secrets=secrets, style=style)
    header = "huddle01-signature" if style is Format.HUDDLE01 else "webhook-signature"
    return [
        genuine,
        flipped(genuine),
        without(genuine, header),
        await send(secrets=(other,), style=style),
        await send(secrets=secrets, style=style, age=TOO_OLD),
        await send(secrets=secrets, style=style, age=TOO_NEW),
    ]
