"""Ids in the forms that Huddle01 uses, and the metadata of invented people."""

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


def new_peer_id(rng: Random) -> str:
    """Return `peerId-` and 21 URL-safe characters."""
    return "peerId-" + "".join(rng.choices(PEER_ID_ALPHABET, k=PEER_ID_LENGTH))


def new_room_id(rng: Random) -> str:
    """Return three groups of lower-case letters, as in `abc-defg-hij`."""
    return "-".join("".join(rng.choices(string.ascii_lowercase, k=length)) for length in ROOM_ID_PARTS)


def new_session_id(rng: Random) -> str:
    """Return a version 4 UUID."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def new_person(rng: Random) -> dict[str, Json]:
    """Return peer metadata with the keys that public Huddle01 apps put into their access tokens."""
    return {
        "displayName": rng.choice(NAMES),
        "avatarUrl": f"https://example.com/avatars/{rng.randrange(20)}.png",
        "isHandRaised": False,
        "walletAddress": f"0x{rng.getrandbits(160):040x}",
    }
