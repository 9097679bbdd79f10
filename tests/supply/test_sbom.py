"""The bill of materials names what ships, all of it, with hashes."""

import json
import subprocess
from pathlib import Path

from facilitator import __version__
from tests.supply.audit import ROOT, SHIPPED, pins


def test_it_is_the_lock_in_cyclonedx(tmp_path: Path) -> None:
    path = tmp_path / "sbom.json"
    subprocess.run(
        ["make", "--silent", f"--old-file={ROOT}/.ops/.installed", "sbom", f"SBOM={path}"],
        cwd=ROOT,
        check=True,
    )
    bill = json.loads(path.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    main = bill["metadata"]["component"]
    assert (main["name"], main["version"]) == ("facilitator", __version__)
    found = {each["name"].lower(): each["version"] for each in bill["components"]}
    assert found == pins(ROOT / SHIPPED)
    for each in bill["components"]:
        hashes = [
            digest
            for reference in each["externalReferences"]
            for digest in reference.get("hashes", ())
        ]
        assert hashes, each["name"]
