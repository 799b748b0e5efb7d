"""The wheel, installed outside the repository: nothing that the program needs is left behind."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge import __version__
from tests.harness.process import ROOT, environment

Run = Callable[..., subprocess.CompletedProcess[str]]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    subprocess.run(command, check=True, capture_output=True, env={**environment(), "PIP_NO_INDEX": "1"})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(ROOT))
    return next(directory.glob("*.whl"))


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the program of a new environment, which has the wheel, and the dependencies of this one."""
    directory = tmp_path_factory.mktemp("installed")
    venv.create(directory / "venv", with_pip=False)
    python = directory / "venv/bin/python"
    packages = sysconfig.get_path("purelib", vars={"base": str(directory / "venv")})
    # The .pth files in a directory that another one names are not read: the repository's bridge stays out of sight.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip("--python", str(python), "install", "--no-deps", "--ignore-installed", str(wheel))

    def run(*arguments: str, program: str = "bridge") -> subprocess.CompletedProcess[str]:
        env = environment({"HUDDLE01_API_KEY": "a-key"})
        del env["PYTHONPATH"]
        command = [str(directory / "venv/bin" / program), *arguments]
        done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    where = run("-c", "import bridge; print(bridge.__file__)", program="python").stdout
    assert where.startswith(packages)
    return run


@pytest.mark.slow
def test_it_has_every_file_of_the_package(wheel: Path) -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "bridge", "migrations"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    names = zipfile.ZipFile(wheel).namelist()

    expected = {f"bridge/{name}" if name.startswith("migrations/") else name for name in files}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert wheel.name.startswith(f"presence_bridge-{__version__}-py3-none-any")


@pytest.mark.slow
def test_it_works_in_a_directory_of_its_own(run: Run) -> None:
    assert run("--version").stdout == f"bridge {__version__}\n"
    run("init")
    run("check")
    run("migrate")
    assert "✓ verified" in run("demo", "--duration", "5s").stdout
