"""Where the rules are, and the programs of Prometheus, which `make test-alerts` installs."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "k8s" / "overlays" / "monitoring" / "alerts.yaml"
DASHBOARD = RULES.parent / "dashboard.json"


def program(name: str) -> str:
    """The path of promtool, prometheus or alertmanager, under Debian's name or its own."""
    found = shutil.which(f"prometheus-{name}") or shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; `make test-alerts` gets it")
    return found
