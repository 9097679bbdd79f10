"""What DATABASE_URL and the variables beside it may say of a PostgreSQL server."""

from pathlib import Path

import pytest

from facilitator.config.database import PostgreSQL
from facilitator.config.settings import ConfigError, load_config


def database(url: str, **environ: str) -> PostgreSQL:
    found = load_config({"DATABASE_URL": url, **environ}).database
    assert isinstance(found, PostgreSQL)
    return found


def refusal(url: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config({"DATABASE_URL": url, **environ})
    return str(caught.value)


def test_a_url_names_server_user_and_database() -> None:
    found = database("postgresql://pay:hunt%40er2@db.example:6432/jour%20nal")
    assert (found.host, found.port, found.name) == ("db.example", 6432, "jour nal")
    assert (found.user, found.read_password()) == ("pay", "hunt@er2")
    assert (found.tls_mode, found.tls_files) == ("prefer", ())
    assert (found.pool_size, found.statement_cache) == (10, 100)


def test_what_is_left_out_has_the_usual_meaning() -> None:
    found = database("postgresql://db/journal")
    assert (found.port, found.user, found.read_password()) == (5432, None, None)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql://[::1]:5433/d", "::1"),
        ("postgresql://%2Fvar%2Frun%2FPostgreSQL/d", "/var/run/PostgreSQL"),
        ("postgresql://u@%2Frun:5433/d", "/run"),
        ("postgresql://DB.example/d", "DB.example"),
    ],
)
def test_a_host_is_a_name_an_address_or_the_folder_of_a_socket(url: str, host: str) -> None:
    assert database(url).host == host


def test_tls_is_said_in_the_url() -> None:
    found = database("postgresql://db/d?sslmode=verify-full&sslrootcert=%2Fca.pem")
    assert (found.tls_mode, found.tls_files) == ("verify-full", (("sslrootcert", "/ca.pem"),))
    assert found.tls_url == "postgresql:///?sslmode=verify-full&sslrootcert=%2Fca.pem"


def test_pool_and_cache_are_settings() -> None:
    sizes = {"DATABASE_POOL_SIZE": "40", "DATABASE_STATEMENT_CACHE": "0"}
    found = database("postgresql://db/d", **sizes)
    assert (found.pool_size, found.statement_cache) == (40, 0)
    assert refusal("postgresql://db/d", DATABASE_POOL_SIZE="1").startswith("DATABASE_POOL_SIZE")
    wrong = refusal("postgresql://db/d", DATABASE_STATEMENT_CACHE="off")
    assert wrong.startswith("DATABASE_STATEMENT_CACHE")


def test_it_listens_where_no_pooler_stands_before_the_server() -> None:
    assert (straight := database("postgresql://db/d")).listens_at == straight
    pooled = {"DATABASE_STATEMENT_CACHE": "0"}
    assert database("postgresql://pool/d", **pooled).listens_at is None
    told = {"DATABASE_LISTEN_URL": "postgresql://me:hunt%40er2@db:5433/d"}
    for found in (
        database("postgresql://pool/d", **told),
        database("postgresql://pool/d", **pooled, **told),
    ):
        assert found.host == "pool"
        assert found.listens_at is not None
        assert (found.listens_at.host, found.listens_at.port) == ("db", 5433)
        assert found.listens_at.read_password() == "hunt@er2"
        assert "hunt" not in repr(found)


def test_the_password_file_is_for_both_addresses(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first")
    both = {"DATABASE_LISTEN_URL": "postgresql://db/d", "DATABASE_PASSWORD_FILE": str(file)}
    found = database("postgresql://pool/d", **both)
    assert found.listens_at is not None
    assert found.listens_at.read_password() == "first"
    two = refusal("postgresql://pool/d", **{**both, "DATABASE_LISTEN_URL": "postgresql://u:p@h/d"})
    assert two.startswith("DATABASE_LISTEN_URL has a password")


@pytest.mark.parametrize("bad", ["sqlite:///hunter2", "http://h/hunter2", "postgresql://hunter2"])
def test_nobody_listens_anywhere_else(bad: str) -> None:
    wrong = refusal("postgresql://db/d", DATABASE_LISTEN_URL=bad)
    assert wrong.startswith("DATABASE_LISTEN_URL must be postgresql://")
    assert "hunter2" not in wrong
    lone = refusal("sqlite:///journal.db", DATABASE_LISTEN_URL="postgresql://db/d")
    assert lone.startswith("DATABASE_LISTEN_URL")


def test_a_password_file_is_read_anew_every_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    found = database("postgresql://me@db/d", DATABASE_PASSWORD_FILE=str(file))
    assert found.read_password() == "first"
    file.write_text("second")
    assert found.read_password() == "second"


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\n", b"x" * 1025])
def test_any_other_password_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    assert "DATABASE_PASSWORD_FILE" in refusal(
        "postgresql://db/d", DATABASE_PASSWORD_FILE=str(file)
    )
    gone = refusal("postgresql://db/d", DATABASE_PASSWORD_FILE=str(tmp_path / "none"))
    assert "cannot be read" in gone


def test_two_passwords_are_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter3")
    line = refusal("postgresql://me:hunter2@db/d", DATABASE_PASSWORD_FILE=str(file))
    assert "use one" in line
    assert "hunter" not in line


@pytest.mark.parametrize(
    "bad",
    [
        *("postgresql:", "postgresql://", "postgresql:///d", "postgresql://h", "postgresql://h/"),
        *("postgresql://h:hunter2/d", "postgresql://h:0/d", "postgresql://h:70000/d"),
        *("postgresql://u:hunter2@/d", "postgresql://:hunter2@h/d", "postgresql://u:@h/d"),
        *("postgresql://h/d/hunter2", "postgresql://h/d#hunter2", "postgresql://h/d hunter2"),
        *("postgresql://u:hunter2%@h/d", "postgresql://a,b/d", "postgresql://u:hunter2%00@h/d"),
        *("postgresql://[::1/d", "postgresql://h/d?password=hunter2", "postgresql://h/d?sslmode"),
        *("postgresql://h/d?sslmode=hunter2", "postgresql://h/d?sslmode=allow&sslmode=allow"),
        *("postgresql://h/d?sslmode=verify-full", "postgresql://h/d?sslrootcert="),
        "postgresql://%2Frun/d?sslmode=require",
    ],
)
def test_a_malformed_url_is_refused_without_being_repeated(bad: str) -> None:
    line = refusal(bad)
    assert line.startswith("DATABASE_URL")
    assert "hunter2" not in line
    assert "\n" not in line


def test_what_is_shown_of_a_database_is_where_it_is() -> None:
    found = database("postgresql://pay:hunter2@db/journal")
    for text in (str(found), repr(found), repr(load_config({"DATABASE_URL": "sqlite:///a"}))):
        assert "hunter2" not in text
    assert str(found) == "postgresql://db:5432/journal"
    config = load_config({"DATABASE_URL": "postgresql://pay:hunter2@db/journal"})
    assert "hunter2" not in repr(config)
    assert "pay" not in repr(config.database)
