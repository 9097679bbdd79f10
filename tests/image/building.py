"""Build the image for real, without a daemon and without the network: buildah in a chroot, on a
base that mmdebstrap makes of Debian's packages, with wheels that the lock's hashes have passed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
SUITE = "bookworm"
BASE = f"localhost/facilitator-test-base:{SUITE}"
IMAGE = "localhost/facilitator-test:latest"
# glibc of the base (2.36) runs wheels of every manylinux before it
MANYLINUX = [f"manylinux_2_{minor}" for minor in range(36, 4, -1)] + ["manylinux2014"]


def buildah(*arguments: str) -> str:
    """Run buildah; its standard output. Raises with what it said."""
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    command = ["buildah", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"buildah {arguments[0]}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    )
    return done.stdout.strip()


def make_base() -> None:
    """A minimal Debian with Python, once a machine: it stays among buildah's images."""
    if BASE in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--variant=minbase"),
                *("--include=python3,python3-venv,ca-certificates", SUITE, f"{folder}/base.tar"),
            ],
            check=True,
        )
        Path(folder, "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
        buildah("bud", "--format", "docker", "--tag", BASE, folder)


def download_wheels(into: Path) -> None:
    """Every wheel of the lock, its hash checked, for the base's Python and this processor."""
    machine = os.uname().machine
    platforms = [f"--platform={each}_{machine}" for each in MANYLINUX]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--require-hashes", "-r", str(ROOT / "requirements.lock"), "--dest", str(into)),
            *("--only-binary=:all:", "--implementation=cp", "--python-version=3.11"),
            *(*platforms, "--platform=any"),
        ],
        check=True,
    )


def context(folder: Path) -> None:
    """What a fresh clone has and the build needs, and the wheels."""
    for name in ("Containerfile", ".dockerignore", "LICENSE", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "facilitator",
        folder / "facilitator",
        ignore=shutil.ignore_patterns("__pycache__", "node_modules"),
    )
    download_wheels(folder / "wheels")


def build() -> dict[str, Any]:
    """Build IMAGE with the command of `make image`; its configuration."""
    make_base()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context(folder)
        # neither is to enter the image
        (folder / ".env").write_text("FACILITATOR_PRIVATE_KEY=not-for-the-image\n")
        (folder / "facilitator" / "left.db").write_text("a journal")
        subprocess.run(
            [
                *("make", "--no-print-directory", "--silent", f"--makefile={ROOT / 'Makefile'}"),
                *("image", "ENGINE=buildah", f"BASE={BASE}", f"IMAGE={IMAGE}"),
                *("VERSION=9.9.9", "REVISION=0123abc"),
            ],
            cwd=folder,
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            check=True,
        )
    inspected: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))
    found: dict[str, Any] = inspected["Docker"]["config"]
    return found
