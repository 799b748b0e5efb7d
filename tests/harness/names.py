"""A resolver of host names with the addresses that a test gives it."""

from __future__ import annotations

import asyncio
import socket

from bridge.resolver import AddressInfo, literal_address


class Names:
    """Each lookup of a name takes its next list of addresses; the last one stays. Other names do not exist."""

    def __init__(self, **addresses: list[list[str]]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        self.asked.append(host)
        if host == "hangs":
            await asyncio.Event().wait()
        lists = self.addresses.get(host)
        if lists is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        found = [literal_address(address, port) for address in addresses]
        return [info for info in found if info is not None]
