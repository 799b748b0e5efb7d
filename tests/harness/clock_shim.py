"""A wall clock for real processes that a test can set: `clock_shim.c`, compiled with the machine's compiler."""

from __future__ import annotations

import shutil
import struct
import subprocess
from datetime import timedelta
from pathlib import Path

COMPILER = shutil.which("cc")
_SOURCE = Path(__file__).with_suffix(".c")


class ShimmedClock:
    """The clock of the processes that are started with `environment`; `set` changes it for all of them at once."""

    def __init__(self, directory: Path) -> None:
        assert COMPILER is not None, "check COMPILER first"
        library, self._file = directory / "clock_shim.so", directory / "clock_offset"
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, _SOURCE, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIM": str(self._file)}
        self.set(timedelta())

    def set(self, offset: timedelta) -> None:
        """Let the clock differ from the machine's by `offset`."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", round(offset.total_seconds()) * 10**9))
