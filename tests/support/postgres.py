"""A PostgreSQL server of the tests' own, and PgBouncer in front of it: started from Debian's
packages in a temporary folder, ended with the tests.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facilitator.config.database import PostgreSQL, parse_postgresql
from tests.support.ports import reserved_port

USER = "facilitator"
PASSWORD = "a password: with @ / and %"
URL_PASSWORD = "a%20password%3A%20with%20%40%20%2F%20and%20%25"
START_TIMEOUT = 60.0  # seconds
# The first one that exists runs the servers where the tests run as root, which both refuse.
SERVANTS = ("postgres", "nobody")

SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
shared_buffers = 32MB
fsync = off
full_page_writes = off
logging_collector = off
autovacuum = off
"""
BOUNCER = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 40
server_idle_timeout = 5
log_connections = 0
log_disconnections = 0
"""


class Server:
    """A running server with databases on `port` of this machine."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, name: str) -> str:
        """What DATABASE_URL is to be."""
        return f"postgresql://{USER}:{URL_PASSWORD}@127.0.0.1:{self.port}/{name}?sslmode=disable"

    def start(self, *, durable: bool = False) -> None:
        """Start it and wait until it takes connections; again after `stop` or `kill`."""
        options = ["-c", "fsync=on", "-c", "full_page_writes=on"] if durable else []
        self.process = spawn(
            [find("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *options],
            self.folder / "log",
        )
        deadline = time.monotonic() + START_TIMEOUT
        while self._ask("postgres", "SELECT 1").returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: fast shutdown; SIGQUIT: as in a crash."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(START_TIMEOUT)
            self.process = None

    def encrypt(self, certificate: Path, key: Path) -> None:
        """From the next start on, take encrypted connections only."""
        data, who = self.folder / "data", servant()
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            target = data / name
            target.write_bytes(source.read_bytes())
            target.chmod(0o600)  # or PostgreSQL refuses the key
            if who:
                os.chown(target, who["user"], who["group"])
        with open(data / "postgresql.conf", "a") as file:
            file.write("ssl = on\n")
        (data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")

    def execute(self, name: str, statement: str) -> str:
        """What psql says to a statement."""
        done = self._ask(name, statement)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _ask(self, name: str, statement: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                *("psql", "-XqAt", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER),
                *("-d", name, "-v", "ON_ERROR_STOP=1", "-c", statement),
            ],
            env={**os.environ, "PGPASSWORD": PASSWORD, "PGCONNECT_TIMEOUT": "5"},
            capture_output=True,
            text=True,
            check=False,
        )

    def create(self, name: str) -> None:
        """An empty database."""
        self.execute("postgres", f"CREATE DATABASE {name}")

    def drop(self, name: str) -> None:
        """Also while somebody is connected to it."""
        self.execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")


def settings(
    url: str, *, pool_size: int = 10, statement_cache: int = 100, password_file: Path | None = None
) -> PostgreSQL:
    """As the configuration would have them."""
    return parse_postgresql(
        "DATABASE_URL",
        url,
        password_file=password_file,
        pool_size=pool_size,
        statement_cache=statement_cache,
    )


def find(program: str) -> str:
    """The newest of the server programs, which Debian keeps out of PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=_version)
    found = str(versions[-1]) if versions else shutil.which(program, path=_PATH)
    assert found, f"{program} is not installed; on Debian: apt-get install postgresql pgbouncer"
    return found


_PATH = f"{os.environ['PATH']}:/usr/sbin"


def _version(path: Path) -> int:
    return int(path.parts[-3]) if path.parts[-3].isdigit() else 0


def servant() -> dict[str, Any]:
    """Who runs the servers, as subprocess has it."""
    if os.getuid() != 0:
        return {}
    for name in SERVANTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise AssertionError("no user to run PostgreSQL as")


def spawn(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            start_new_session=True,
            **servant(),
        )


@contextmanager
def _folder() -> Iterator[Path]:
    """One that the servant may use."""
    with tempfile.TemporaryDirectory(prefix="facilitator-postgres-") as name:
        who = servant()
        if who:
            os.chown(name, who["user"], who["group"])
        yield Path(name)


@contextmanager
def running_server(*, durable: bool = False) -> Iterator[Server]:
    """A server with an empty cluster, whose user has a password."""
    with _folder() as folder:
        (folder / "password").write_text(f"{PASSWORD}\n")
        subprocess.run(
            [
                *(find("initdb"), "-D", str(folder / "data"), "--no-sync", "-E", "UTF8"),
                *("--locale=C", "--auth=scram-sha-256", "-U", USER),
                f"--pwfile={folder / 'password'}",
            ],
            cwd=folder,
            check=True,
            capture_output=True,
            **servant(),
        )
        with open(folder / "data" / "postgresql.conf", "a") as file:
            file.write(SETTINGS)
        server = Server(folder, reserved_port())
        try:
            server.start(durable=durable)
            yield server
        finally:
            server.stop()


@contextmanager
def running_bouncer(server: Server) -> Iterator[Server]:
    """PgBouncer in transaction mode before the server: another connection for every transaction."""
    with _folder() as folder:
        bouncer = Server(folder, reserved_port())
        (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        (folder / "ini").write_text(
            BOUNCER.format(server=server.port, port=bouncer.port, folder=folder)
        )
        bouncer.process = spawn([find("pgbouncer"), str(folder / "ini")], folder / "log")
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while bouncer._ask("postgres", "SELECT 1").returncode:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                assert bouncer.process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield bouncer
        finally:
            bouncer.stop()
