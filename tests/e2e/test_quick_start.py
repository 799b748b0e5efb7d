"""The README's quick start, followed without an account and without an application."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import pages
from tests.harness.process import ROOT, Process, environment

BESIDE_PYTHON = str(Path(sys.executable).parent)
PATH = {"PATH": os.pathsep.join((BESIDE_PYTHON, os.environ["PATH"]))}


def shell(script: str, directory: Path) -> Path:
    """Run a block of the README and return the directory in which it ends."""
    done = subprocess.run(
        ["bash", "-euc", f"{script}\npwd"],
        cwd=directory,
        env=environment(PATH),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """Return the text with each change made once; each must be possible."""
    for before, after in changes:
        assert before in text, f"there is no {before!r} in\n{text}"
        text = text.replace(before, after, 1)
    return text


@pytest.mark.slow
def test_the_quick_start_leads_to_a_verified_delivery(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "bridge.toml").write_bytes((ROOT / "bridge.toml").read_bytes())
    place = shell(pages.block(pages.README, "quick start: a place of its own"), clone)
    file = place / "bridge.toml"
    text = file.read_text()

    secret = re.findall(r'^secret = "(whsec_[^"]+)"', text, re.MULTILINE)[0]
    receiver = pages.block(pages.README, "quick start: a receiver")
    receiver = replaced(receiver, ("whsec_your-secret", secret), ("9000", "0"), ("bridge listen", "exec bridge listen"))
    simulate = ["bash", "-euc", "exec bridge simulate --port 0"]
    listen = ["bash", "-euc", receiver]
    with Process(simulate, place, env=PATH) as upstream, Process(listen, place, env=PATH) as receiving:
        upstream.wait_for_output("Ctrl-C ends it")
        url = re.findall(r"http://127\.0\.0\.1:\d+/", receiving.wait_for_output("http://127.0.0.1:"))[0]
        printed = re.findall(r"(\[sources\.main\]\n.*?api_key = \S+)\n\n(.*?)\nCtrl-C", upstream.output, re.DOTALL)[0]
        source, rooms = (re.sub(r"^ +", "", part, flags=re.MULTILINE) for part in printed)
        room = re.findall(r"^\[\[rooms\]\]\n.*?\n\n", text, re.DOTALL | re.MULTILINE)[0]
        was = re.findall(r"^\[sources\.main\]\n.*?\n\n", text, re.DOTALL | re.MULTILINE)[0]
        file.write_text(
            replaced(
                text,
                (was, f"{source}\n\n"),
                (room, f"{rooms}\n"),
                ('url = "https://my-app.example/hooks/presence"', f'url = "{url}"'),
                ("# allow_private_networks", "allow_private_networks"),
                ('interval = "10s"', 'interval = "500ms"'),
                ('listen = "127.0.0.1:8080"', 'listen = ""'),
            )
        )
        run = pages.block(pages.README, "quick start: run").replace("bridge run", "exec bridge run")
        with Process(["bash", "-euc", run], place, env=PATH) as bridge:
            bridge.wait_for_output("bridge.started")
            receiving.wait_for_output("✓ verified")
            assert bridge.stop() == 0
    assert (place / "bridge.db").exists()
