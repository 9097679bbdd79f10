"""`python -m tests.supply.secrets [FOLDER]` (`make secrets`): does any file hold a secret?

detect-secrets looks through the files that git knows, or through FOLDER. What it may find is listed
in known_secrets.json by file and SHA-1, the way detect-secrets tells: hashes of transactions and
blocks, public test keys, made-up credentials. `--write` lists what is there; read the difference.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
KNOWN: Final = Path(__file__).parent / "known_secrets.json"
PLUGIN: Final = Path(__file__).parent / "ethereum_keys.py"
# Guessers that take every long word for a secret, and what machines write: hashes of packages and
# bytecode.
TOO_EAGER: Final = ("HexHighEntropyString", "Base64HighEntropyString", "KeywordDetector")
MADE_BY_MACHINES: Final = (
    r"(requirements.*\.lock|package-lock\.json|known_secrets\.json"
    r"|(contracts|artifacts)/\w+\.json)$"
)

Found = dict[str, dict[str, tuple[str, int]]]


def scan(folder: Path, *arguments: str) -> Found:
    """By file and SHA-1 of the secret: its kind and line. Raises CalledProcessError."""
    command = [str(ROOT / ".ops/bin/detect-secrets"), "scan", "-p", str(PLUGIN), *arguments]
    for plugin in TOO_EAGER:
        command += ["--disable-plugin", plugin]
    command += ["--exclude-files", MADE_BY_MACHINES]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    found: Found = {}
    for file, hits in json.loads(done.stdout)["results"].items():
        for hit in hits:
            found.setdefault(file, {})[hit["hashed_secret"]] = (hit["type"], hit["line_number"])
    return found


def unknown(found: Found, known: dict[str, list[str]]) -> list[str]:
    """A line for each that is not known. No secret is repeated."""
    return [
        f"{file}:{line}: {kind}"
        for file, hits in sorted(found.items())
        for digest, (kind, line) in sorted(hits.items(), key=lambda item: item[1][1])
        if digest not in known.get(file, ())
    ]


def main(arguments: list[str]) -> int:
    folders = [each for each in arguments if each != "--write"]
    found = scan(Path(folders[0]), "--all-files") if folders else scan(ROOT)
    if "--write" in arguments:
        listed = {file: sorted(hits) for file, hits in sorted(found.items())}
        KNOWN.write_text(json.dumps(listed, indent=1) + "\n")
        return 0
    lines = unknown(found, json.loads(KNOWN.read_text()))
    for line in lines:
        print(line)
    print(f"{len(lines)} secrets that are not known in {KNOWN.name}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
