"""Where a file lives, as the kernel tells it: on a volume, or on a container's own layer, which
goes away with the container.
"""

import re
from pathlib import Path, PurePath

MOUNTS = Path("/proc/self/mountinfo")
# What container engines stack an image's layers with.
LAYERS = frozenset({"overlay", "fuse.fuse-overlayfs", "aufs"})

_ESCAPED = re.compile(r"\\([0-7]{3})")


def on_container_layer(path: PurePath, mounts: str) -> bool:
    """Whether the absolute `path` is on a file system of layers. `mounts` is the text of
    /proc/self/mountinfo (proc_pid_mountinfo(5)): fields 5 (mount point) and, after " - ", the type.
    """
    longest, kind = -1, ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        if len(left.split()) < 5 or not right:
            continue
        point = PurePath(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), left.split()[4]))
        # a later mount at the same place hides the earlier one
        if path.is_relative_to(point) and len(point.parts) >= longest:
            longest, kind = len(point.parts), right.split()[0]
    return kind in LAYERS


def is_fleeting(path: Path) -> bool:
    """Whether the file goes away with the container. False where the system does not tell."""
    try:
        return on_container_layer(path.resolve(), MOUNTS.read_text())
    except OSError:
        return False
