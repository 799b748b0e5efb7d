"""Links that sign in once, for a service without any token."""

from __future__ import annotations

import secrets
from hmac import compare_digest
from typing import Final


class OneTimeLinks:
    """Codes of links that sign in once, and the key of the sessions that they begin; both end with the process."""

    def __init__(self) -> None:
        self.key: Final = secrets.token_bytes(32)
        self._codes: set[str] = set()

    def new_path(self) -> str:
        """Return the path of a new link."""
        code = secrets.token_urlsafe(24)
        self._codes.add(code)
        return f"/sign-in?code={code}"

    def redeem(self, code: str) -> bool:
        """Return whether the code is valid and was not used yet; it is used up."""
        found = [known for known in self._codes if compare_digest(known, code.encode("ascii", "replace").decode())]
        self._codes.difference_update(found)
        return bool(found)
