"""The URL of the journal: `sqlite:///<path>` or `postgresql://...`.

No error repeats any part of it, since it may hold a password.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from msgspec import Struct

from facilitator.config.parsers import ConfigError

TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TLS_FILES = ("sslrootcert", "sslcert", "sslkey")
DEFAULT_PORT = 5432
PASSWORD_FILE_LIMIT = 1024  # bytes

_VISIBLE = re.compile(r"\A[\x21-\x7e]+\Z")
_ESCAPES = re.compile(r"%(?![0-9a-fA-F]{2})")


class PostgreSQL(Struct, frozen=True, kw_only=True):
    """A database of a PostgreSQL server. `host` may be the folder of a Unix socket. As in libpq,
    None for `user` means the one who runs the program, and for `password` the one in PGPASSFILE.
    Neither str nor repr shows user or password.
    """

    host: str
    port: int
    user: str | None
    password: str | None
    password_file: Path | None
    name: str
    tls_mode: str
    tls_files: tuple[tuple[str, str], ...]  # (parameter of the URL, path)
    pool_size: int  # connections at most
    statement_cache: int  # prepared statements a connection; 0 behind PgBouncer
    direct: "PostgreSQL | None" = None  # the same database, past the pooler

    def __repr__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else quote(self.host)
        return f"postgresql://{host}:{self.port}/{quote(self.name)}"

    __str__ = __repr__

    @property
    def tls_url(self) -> str:
        """A URL that holds only how the connection is encrypted."""
        return f"postgresql:///?{urlencode([('sslmode', self.tls_mode), *self.tls_files])}"

    @property
    def listens_at(self) -> "PostgreSQL | None":
        """The database to LISTEN on, which must be the server itself. None where only a pooler is
        configured: the statement cache is off behind one.
        """
        return self.direct or (self if self.statement_cache else None)

    def read_password(self) -> str | None:
        """Return the current password. A file is read for every connection, so that the password
        may change. Raises ConfigError.
        """
        if self.password_file is None:
            return self.password
        return read_password_file(self.password_file)


def read_password_file(path: Path) -> str:
    """Return the only line of the file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            content = file.read(PASSWORD_FILE_LIMIT + 1)
        password = content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigError(
            f"DATABASE_PASSWORD_FILE: the file cannot be read ({error.strerror})"
        ) from None
    except ValueError:  # not UTF-8, or a path with a null character
        raise ConfigError("DATABASE_PASSWORD_FILE must name a text file") from None
    if len(content) > PASSWORD_FILE_LIMIT or not password or not password.isprintable():
        raise ConfigError(
            "DATABASE_PASSWORD_FILE must name a file with one line of printable text"
            f" and at most {PASSWORD_FILE_LIMIT} bytes"
        )
    return password


def parse_sqlite(name: str, value: str) -> Path:
    """Return the file of `sqlite:///relative/path` or `sqlite:////absolute/path`. Raises
    ConfigError.
    """
    path = value.removeprefix("sqlite:///")
    if path == value or not path.strip("/") or path.endswith("/") or not path.isprintable():
        raise ConfigError(
            f"{name} must be sqlite:///<path>, sqlite:////<absolute path>, or"
            " postgresql://[user[:password]@]host[:port]/database"
        )
    # What was signed must outlive the process, so no database in memory; and no parameters,
    # which would otherwise become part of the file's name.
    if ":memory:" in path or "?" in path:
        raise ConfigError(f"{name} must name a file, without parameters")
    return Path(path)


def parse_postgresql(
    name: str, value: str, *, password_file: Path | None, pool_size: int, statement_cache: int
) -> PostgreSQL:
    """Parse `postgresql://[user[:password]@]host[:port]/database[?sslmode=...]`. As in libpq, the
    host may be the folder of a Unix socket, with %2F for its slashes. Raises ConfigError.
    """
    malformed = ConfigError(
        f"{name} must be postgresql://[user[:password]@]host[:port]/database, what is special in a"
        " part percent-encoded"
    )
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise malformed from None
    user, password = _decoded(parts.username), _decoded(parts.password)
    host, database = _decoded(_host(parts)), _decoded(parts.path.removeprefix("/"))
    if (
        parts.scheme != "postgresql"
        or not _VISIBLE.match(value)
        or _ESCAPES.search(value)
        or "#" in value
        or port == 0
        or not (host and database)
        or "/" in parts.path.removeprefix("/")
        or "," in host
        or user == ""
        or password == ""
        or not all(each.isprintable() for each in (host, database, user or "", password or ""))
    ):
        raise malformed
    if password is not None and password_file is not None:
        raise ConfigError(f"{name} has a password and DATABASE_PASSWORD_FILE is set: use one")
    on_socket = host.startswith("/")
    mode, files = _tls(name, parts.query, default="disable" if on_socket else "prefer")
    if on_socket and mode not in ("disable", "allow", "prefer"):
        raise ConfigError(f"{name}: a Unix socket has no TLS, leave sslmode out")
    return PostgreSQL(
        host=host,
        port=DEFAULT_PORT if port is None else port,
        user=user,
        password=password,
        password_file=password_file,
        name=database,
        tls_mode=mode,
        tls_files=files,
        pool_size=pool_size,
        statement_cache=statement_cache,
    )


def _host(parts: SplitResult) -> str:
    """Return the host as it is written: that of urlsplit is in lower case, wrong for a folder."""
    place = parts.netloc.rpartition("@")[2]
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0]


def _decoded(part: str | None) -> str | None:
    return None if part is None else unquote(part)


def _tls(name: str, query: str, *, default: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    pairs = parse_qsl(query, keep_blank_values=True)
    parameters = dict(pairs)
    mode = parameters.pop("sslmode", default)
    if len(set(parameters)) + ("sslmode" in dict(pairs)) < len(pairs) or not (
        set(parameters) <= set(TLS_FILES)
    ):
        raise ConfigError(
            f"{name} may have the parameters sslmode, {', '.join(TLS_FILES)}, each once"
        )
    if mode not in TLS_MODES:
        raise ConfigError(f"{name}: sslmode must be one of {', '.join(TLS_MODES)}")
    if not all(path and path.isprintable() for path in parameters.values()):
        raise ConfigError(f"{name}: {', '.join(TLS_FILES)} must name files")
    if mode.startswith("verify-") and "sslrootcert" not in parameters:
        raise ConfigError(f"{name}: sslmode={mode} needs sslrootcert, a file of certificates")
    return mode, tuple(parameters.items())
