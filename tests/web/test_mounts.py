"""Laws of where a journal lives: a volume is told apart from a container's own layer."""

from pathlib import Path, PurePath

import pytest

from facilitator.web.app import is_fleeting, on_container_layer

# As the kernel writes them (proc_pid_mountinfo(5)), with and without optional fields.
ROOT = "159 158 0:39 / / rw,relatime - overlay overlay rw,lowerdir=/l/A,upperdir=/u"
PODMAN = "159 158 0:39 / / rw,relatime master:1 - fuse.fuse-overlayfs fuse-overlayfs rw"
DISK = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
VOLUME = "170 159 254:0 /volumes/x /data rw,relatime - ext4 /dev/vda rw"
SPACED = r"171 159 254:0 /y /my\040data rw,relatime shared:1 master:2 - xfs /dev/vdb rw"


@pytest.mark.parametrize(
    ("path", "mounts", "fleeting"),
    [
        ("/data/facilitator.db", [ROOT], True),
        ("/data/facilitator.db", [PODMAN], True),
        ("/data/facilitator.db", [DISK], False),
        ("/data/facilitator.db", [ROOT, VOLUME], False),
        ("/data/facilitator.db", [VOLUME, ROOT], False),
        ("/data", [ROOT, VOLUME], False),
        ("/database/facilitator.db", [ROOT, VOLUME], True),
        ("/app/facilitator.db", [ROOT, VOLUME], True),
        ("/my data/facilitator.db", [ROOT, SPACED], False),
        ("/data/facilitator.db", [DISK, ROOT], True),
        ("/data/facilitator.db", ["", "nonsense", "1 2 3 4 / -"], False),
    ],
)
def test_the_deepest_mount_decides(path: str, mounts: list[str], fleeting: bool) -> None:
    assert on_container_layer(PurePath(path), "\n".join(mounts)) is fleeting


def test_a_file_of_the_kernels_own_is_on_no_layer() -> None:
    """The real table of this system: /proc is never a layer, whatever the root is."""
    assert not is_fleeting(Path("/proc/self/status"))
