"""A resolver of host names with the addresses that a test gives it, in place of the one that aiohttp would use."""

from __future__ import annotations

import asyncio
import socket

from aiohttp.abc import AbstractResolver, ResolveResult


class Names(AbstractResolver):
    """Each lookup of a name takes its next list of addresses; the last one stays. Other names do not exist."""

    def __init__(self, **addresses: list[list[str]]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host == "hangs":
            await asyncio.Event().wait()
        lists = self.addresses.get(host)
        if lists is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        pass
