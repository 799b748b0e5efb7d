"""Ids in the forms that Huddle01 uses (upstream.md 1.1), and people to bear them; every choice is the caller's dice."""

from __future__ import annotations

import string
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from bridge.simulator.rooms import Json

PEER_ID_ALPHABET = string.ascii_letters + string.digits + "_-"
PEER_ID_LENGTH = 21
ROOM_ID_PARTS = (3, 4, 3)

NAMES = (
    "Ada Okafor",
    "akmo3.eth",
    "Amélie Fournier",
    "Ben O'Brien",
    "Chen Wei",
    "Dagný Jónsdóttir",
    "Emeka N.",
    "Fatima al-Sayed",
    "Grzegorz Żuk",
    "hana 🌱",
    "Iván Peña",
    "Jürgen Weiß",
    "Kavya Rao",
    "Léa & Tom",
    "Mateus da Silva",
    "Noa",
    "Olena Шевченко",
    "priya.lens",
    "Quinn (she/her)",
    "Rasmus Bjørn",
    "Sato Yuki",
    "Tổng Minh",
    "Uchenna",
    "vitalik_fan_99",
    "Wanjiru K.",
    "Ximena Ortiz",
    "Yusuf Demir",
    "Zoë van Dijk",
    "山田 花子",
    "김민준",
)


def new_peer_id(chance: Random) -> str:
    """`peerId-` and 21 URL-safe characters: new on every join."""
    return "peerId-" + "".join(chance.choices(PEER_ID_ALPHABET, k=PEER_ID_LENGTH))


def new_room_id(chance: Random) -> str:
    """Three groups of small letters, as in `abc-defg-hij`."""
    return "-".join("".join(chance.choices(string.ascii_lowercase, k=length)) for length in ROOM_ID_PARTS)


def new_session_id(chance: Random) -> str:
    """A version 4 UUID."""
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def new_person(chance: Random) -> dict[str, Json]:
    """Peer metadata with the keys that public Huddle01 apps put into their access tokens."""
    return {
        "displayName": chance.choice(NAMES),
        "avatarUrl": f"https://example.com/avatars/{chance.randrange(20)}.png",
        "isHandRaised": False,
        "walletAddress": f"0x{chance.getrandbits(160):040x}",
    }
