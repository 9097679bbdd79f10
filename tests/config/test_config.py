"""The configuration: right or refused with one line that names the variable and no value."""

from pathlib import Path

import pytest
from eth_account import Account
from eth_utils import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from facilitator.config.networks import NETWORKS
from facilitator.config.settings import Config, ConfigError, Key, load_config

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEY_A = "0x" + "11" * 32
KEY_B = "0x" + "22" * 32
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
OTHER = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
PRODUCTION = {"FACILITATOR_ENV": "production", "JEJU_RPC_URL": "https://rpc.example/jeju"}


def address(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def refusal(environ: dict[str, str]) -> str:
    """The line that refuses `environ`; it names a variable and is one line."""
    with pytest.raises(ConfigError) as caught:
        load_config(environ)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_an_empty_environment_is_a_development_service_with_the_documented_defaults() -> None:
    config = load_config({})
    assert (config.mode, config.host, config.port) == ("development", "0.0.0.0", 3402)  # noqa: S104
    assert (config.service_name, config.public_url) == ("Jeju x402 Facilitator", None)
    assert config.url == "http://localhost:3402"
    assert (config.primary_network, config.primary.network.chain_id) == ("jeju", 420691)
    assert (config.max_payment_age, config.min_payment_amount) == (300, 1)
    assert (config.protocol_fee_bps, config.fee_recipient) == (50, None)
    assert (config.settle_timeout, config.primary.confirmations) == (45, 1)
    assert config.max_fee_per_gas == 500 * 10**9
    assert config.database == Path("facilitator.db")
    assert (config.keys, config.allowed_factories) == ((), ())
    assert (config.log_format, config.log_level) == ("text", "INFO")


def test_every_variable_reaches_the_field_that_it_names() -> None:
    config = load_config(
        {
            "FACILITATOR_ENV": "production",
            "FACILITATOR_PORT": "8080",
            "HOST": "::1",
            "SERVICE_NAME": "Paydesk",
            "FACILITATOR_URL": "https://pay.example/x402",
            "X402_PRIMARY_NETWORK": "base-sepolia",
            "BASE_SEPOLIA_RPC_URL": "https://one.example/v3/abc, https://two.example",
            "BASE_SEPOLIA_USDC_ADDRESS": OTHER,
            "X402_FACILITATOR_ADDRESS": CONTRACT,
            "FACILITATOR_PRIVATE_KEY": f"{KEY_A}, {KEY_B[2:]}",
            "PROTOCOL_FEE_BPS": "1000",
            "FEE_RECIPIENT_ADDRESS": OTHER.lower(),
            "MAX_PAYMENT_AGE": "120",
            "MIN_PAYMENT_AMOUNT": str(2**256 - 1),
            "EIP6492_ALLOWED_FACTORIES": f"{CONTRACT},{OTHER}",
            "DATABASE_URL": "sqlite:////var/lib/facilitator/journal.db",
            "SETTLE_TIMEOUT_SECONDS": "600",
            "SETTLE_BATCH_MAX": "128",
            "CONFIRMATIONS": "64",
            "MAX_FEE_PER_GAS_GWEI": "1",
            "LOG_FORMAT": "text",
            "LOG_LEVEL": "DEBUG",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://team:pass@collector.example",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=one%20two,x-team=three",
            "TRACE_PROPAGATE_HOSTS": "One.example, ::0001",
        }
    )
    assert (config.mode, config.host, config.port) == ("production", "::1", 8080)
    assert (config.service_name, config.url) == ("Paydesk", "https://pay.example/x402")
    network = config.primary
    assert network.network is NETWORKS["base-sepolia"]
    assert network.rpc_urls == ("https://one.example/v3/abc", "https://two.example")
    assert network.explicit_rpc
    assert network.contract == address(CONTRACT)
    assert network.usdc is not None
    assert (network.usdc.address, network.usdc.name) == (address(OTHER), "USDC")
    assert config.keys == (Key(bytes([0x11]) * 32), Key(bytes([0x22]) * 32))
    assert (config.protocol_fee_bps, config.fee_recipient) == (1000, address(OTHER))
    assert (config.max_payment_age, config.min_payment_amount) == (120, 2**256 - 1)
    assert config.allowed_factories == (address(CONTRACT), address(OTHER))
    assert config.database == Path("/var/lib/facilitator/journal.db")
    assert (config.settle_timeout, config.primary.confirmations, config.max_fee_per_gas) == (
        600,
        64,
        10**9,
    )
    assert (config.log_format, config.log_level) == ("text", "DEBUG")
    assert config.tracing is not None
    assert set(config.tracing.secrets) == {
        *("https://team:pass@collector.example", "one%20two", "one two", "three"),
    }
    assert not any(secret in repr(config) for secret in config.tracing.secrets)
    assert config.trace_hosts == ("one.example", "::1")
    assert config.missing == ()


def test_a_network_may_have_confirmations_of_its_own() -> None:
    config = load_config({"CONFIRMATIONS": "2", "BASE_CONFIRMATIONS": "10"})
    assert config.networks["base"].confirmations == 10
    assert config.primary.confirmations == 2
    assert load_config({}).primary.confirmations == 1


def test_without_a_gas_budget_there_is_no_limit() -> None:
    assert load_config({}).max_gas_spend_per_day is None
    assert load_config({"MAX_GAS_SPEND_PER_DAY": "7"}).max_gas_spend_per_day == 7
    assert load_config({}).retention_days is None
    assert load_config({"RETENTION_DAYS": "30"}).retention_days == 30


def test_metrics_are_on_the_services_own_port_unless_they_have_one() -> None:
    config = load_config({})
    assert (config.metrics, config.metrics_port, config.ready_requires_rpc) == (True, None, False)
    told = {"METRICS": "off", "METRICS_PORT": "9464", "READY_REQUIRES_RPC": "true"}
    config = load_config(told)
    assert (config.metrics, config.metrics_port, config.ready_requires_rpc) == (False, 9464, True)


def test_the_facilitators_own_name_goes_before_its_alias() -> None:
    assert load_config({"PORT": "4000"}).port == 4000
    assert load_config({"PORT": "4000", "FACILITATOR_PORT": "0"}).port == 0
    assert load_config(PRODUCTION | {"FACILITATOR_ENV": "test"}).mode == "development"
    assert load_config(PRODUCTION | {"NODE_ENV": "development"}).mode == "production"
    assert load_config({"NODE_ENV": "production", "JEJU_RPC_URL": "http://n"}).is_production


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("FACILITATOR_PORT", 0, 65_535),
        ("PORT", 0, 65_535),
        ("PROTOCOL_FEE_BPS", 0, 1000),
        ("MAX_PAYMENT_AGE", 1, 300),
        ("MIN_PAYMENT_AMOUNT", 1, 2**256 - 1),
        ("SETTLE_TIMEOUT_SECONDS", 1, 600),
        ("SETTLE_BATCH_MAX", 1, 128),
        ("CONFIRMATIONS", 1, 64),
        ("MAX_FEE_PER_GAS_GWEI", 1, 1_000_000),
        ("JEJU_CONFIRMATIONS", 1, 64),
        ("MAX_GAS_SPEND_PER_DAY", 1, 2**256 - 1),
        ("METRICS_PORT", 0, 65_535),
        ("RETENTION_DAYS", 1, 3650),
    ],
)
def test_integers_are_plain_decimals_within_their_range(name: str, low: int, high: int) -> None:
    for good in (low, high):
        load_config({name: str(good)})
    for bad in (
        *(str(low - 1), str(high + 1), "-1", "+1", "01", " 1", "1 ", "1\n", "1_0", "0x10", "1e2"),
        *("1.0", " ", "ten", "\u0661", "\uff11", "9" * 5000),
    ):
        assert refusal({name: bad}).startswith(f"{name} ")


@given(st.integers(min_value=1, max_value=2**256 - 1))
def test_every_amount_below_two_to_the_256_is_read_exactly(amount: int) -> None:
    assert load_config({"MIN_PAYMENT_AMOUNT": str(amount)}).min_payment_amount == amount


@given(st.text(min_size=1))
def test_an_integer_is_read_as_itself_or_refused(text: str) -> None:
    try:
        port = load_config({"FACILITATOR_PORT": text}).port
    except ConfigError:
        return
    assert str(port) == text


@given(st.binary(min_size=20, max_size=20).filter(any))
def test_an_address_passes_in_one_case_or_with_the_right_checksum(raw: bytes) -> None:
    right = to_checksum_address(raw)
    name = "FEE_RECIPIENT_ADDRESS"
    for text in ("0x" + raw.hex(), "0x" + raw.hex().upper(), right):
        assert load_config({name: text}).fee_recipient == raw
    wrong = "0x" + right[2:].swapcase()
    if wrong[2:] not in (wrong[2:].lower(), wrong[2:].upper()):
        assert refusal({name: wrong}).startswith(f"{name} ")


@pytest.mark.parametrize(
    "name",
    [
        "X402_FACILITATOR_ADDRESS",
        "X402_FACILITATOR_ADDRESS_BASE",
        "JEJU_TESTNET_USDC_ADDRESS",
        "FEE_RECIPIENT_ADDRESS",
        "EIP6492_ALLOWED_FACTORIES",
    ],
)
@pytest.mark.parametrize(
    "bad",
    [
        "0X" + CONTRACT[2:].lower(),
        CONTRACT[2:].lower(),
        CONTRACT[:-1] + "4",
        CONTRACT + "00",
        CONTRACT.replace("5F", "5f"),
        "vitalik.eth",
        " ",
        "\uff10x" + "11" * 20,
    ],
)
def test_a_wrong_address_is_refused_by_name(name: str, bad: str) -> None:
    assert refusal({name: bad}).startswith(f"{name} ")


def test_blanks_count_in_a_single_value_and_not_between_the_items_of_a_list() -> None:
    assert refusal({"FEE_RECIPIENT_ADDRESS": f"{CONTRACT}\n"})
    spaced = load_config({"EIP6492_ALLOWED_FACTORIES": f" {CONTRACT} ,\n{OTHER}\n"})
    assert spaced.allowed_factories == (address(CONTRACT), address(OTHER))


def test_lists_refuse_repeats_and_empty_items() -> None:
    """An endpoint's word is checked against another's: a repeated one would confirm itself."""
    for name, item in (
        ("EIP6492_ALLOWED_FACTORIES", CONTRACT),
        ("JEJU_RPC_URL", "http://node.example"),
        ("FACILITATOR_PRIVATE_KEY", KEY_A),
    ):
        load_config({name: item})
        for bad in (f"{item},{item}", f"{item},", f",{item}", ",", f"{item},,{item}"):
            assert refusal({name: bad}).startswith(f"{name} ")
    assert refusal({"FACILITATOR_PRIVATE_KEY": f"{KEY_A},{KEY_A[2:]}"})
    assert refusal({"EIP6492_ALLOWED_FACTORIES": f"{CONTRACT},{CONTRACT.lower()}"})


@pytest.mark.parametrize("name", ["BASE_RPC_URL", "FACILITATOR_URL"])
@pytest.mark.parametrize(
    "bad",
    [
        *("node.example", "ws://node.example", "file:///etc/passwd", "http://", "https:///path"),
        *("http://node.example:99999", "http://node.example:0", "http://[::1", "http://a b"),
        *("http://no\nde", "http://n\u00f6de.example", " "),
    ],
)
def test_urls_are_http_with_a_host(name: str, bad: str) -> None:
    assert refusal({name: bad}).startswith(f"{name} ")


def test_the_public_url_carries_no_credentials() -> None:
    """It is shown to everybody in /supported; an RPC URL is shown to nobody and may have them."""
    assert "credentials" in refusal({"FACILITATOR_URL": "https://me:hunter2@pay.example"})
    load_config({"JEJU_RPC_URL": "https://me:hunter2@node.example"})


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///facilitator.db", "facilitator.db"),
        ("sqlite:///data/journal.db", "data/journal.db"),
        ("sqlite:////data/journal.db", "/data/journal.db"),
    ],
)
def test_a_sqlite_url_names_a_file(url: str, path: str) -> None:
    assert load_config({"DATABASE_URL": url}).database == Path(path)


@pytest.mark.parametrize(
    "bad",
    [
        *("facilitator.db", "sqlite:", "sqlite://", "sqlite:///", "sqlite:////", "sqlite:///dir/"),
        *("sqlite:///:memory:", "sqlite:///a.db?mode=memory", "mysql://h/d", "", "sqlite:///a\nb"),
        *("postgres://h/d", "postgresql+asyncpg://h/d"),
    ],
)
def test_any_other_database_is_refused(bad: str) -> None:
    """A journal in memory would forget what was signed."""
    assert refusal({"DATABASE_URL": bad}).startswith("DATABASE_URL")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("FACILITATOR_ENV", "prod"),
        ("FACILITATOR_ENV", "Production"),
        ("NODE_ENV", "staging"),
        ("X402_PRIMARY_NETWORK", "solana"),
        ("X402_PRIMARY_NETWORK", "Jeju"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://collector"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("TRACE_PROPAGATE_HOSTS", "one.example:8545"),
        ("TRACE_PROPAGATE_HOSTS", "https://one.example"),
        ("TRACE_PROPAGATE_HOSTS", "one.example,One.example"),
        ("HOST", "not a host"),
        ("HOST", "0.0.0.0:80"),
        ("SERVICE_NAME", "two\nlines"),
        ("SERVICE_NAME", "x" * 101),
    ],
)
def test_a_word_that_is_not_on_the_list_stops_the_start(name: str, bad: str) -> None:
    assert refusal({name: bad}).startswith(f"{name} ")


@pytest.mark.parametrize(
    "bad",
    [
        "0x" + "00" * 32,
        f"0x{ORDER:064x}",
        "0x" + "ff" * 32,
        "0x" + "11" * 31,
        "0x" + "11" * 33,
        "0X" + "11" * 32,
        "0x" + "1g" * 32,
        " ",
        KEY_A + " retire",
    ],
)
def test_a_key_is_32_bytes_of_hex_within_the_curves_order(bad: str) -> None:
    assert refusal({"FACILITATOR_PRIVATE_KEY": bad}).startswith("FACILITATOR_PRIVATE_KEY ")
    load_config({"FACILITATOR_PRIVATE_KEY": f"0x{ORDER - 1:064x}"})
    load_config({"FACILITATOR_PRIVATE_KEY": f"0x{1:064x}"})


def test_a_key_file_has_one_key_a_line_and_may_retire_some(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# signers\n\n{KEY_A}\n  {KEY_B[2:]} retire\r\n")
    config = load_config({"FACILITATOR_PRIVATE_KEY_FILE": str(file)})
    assert config.keys == (Key(bytes([0x11]) * 32), Key(bytes([0x22]) * 32, retires=True))
    assert Account.from_key(config.keys[0].secret).address == Account.from_key(KEY_A).address


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "no key"),
        ("# nothing\n", "no key"),
        (f"{KEY_A}\n{KEY_A}\n", "twice"),
        (f"{KEY_A} retire\n{KEY_A[2:]}\n", "twice"),
        (f"{KEY_A}\n{KEY_B} retired\n", "line 2"),
        (f"{KEY_A}\n{KEY_B} retire now\n", "line 2"),
        ("hunter2\n", "line 1"),
        ("kl\u00fcssel\n", "text file"),
        ("#\n" * 40_000, "larger"),
    ],
)
def test_a_wrong_key_file_is_refused(tmp_path: Path, content: str, word: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    line = refusal({"FACILITATOR_PRIVATE_KEY_FILE": str(file)})
    assert line.startswith("FACILITATOR_PRIVATE_KEY_FILE")
    assert word in line
    assert KEY_A[4:] not in line
    assert "hunter2" not in line


def test_a_key_that_landed_in_the_variable_of_the_file_is_not_repeated(tmp_path: Path) -> None:
    for name in (KEY_A, str(tmp_path), "nul\0character"):
        assert name not in refusal({"FACILITATOR_PRIVATE_KEY_FILE": name})


def test_keys_come_from_one_place(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY_A)
    both = {"FACILITATOR_PRIVATE_KEY": KEY_B, "FACILITATOR_PRIVATE_KEY_FILE": str(file)}
    line = refusal(both)
    assert "FACILITATOR_PRIVATE_KEY and FACILITATOR_PRIVATE_KEY_FILE" in line


VARIABLES = [
    *("FACILITATOR_PORT", "HOST", "FACILITATOR_ENV", "X402_PRIMARY_NETWORK", "SERVICE_NAME"),
    *("JEJU_RPC_URL", "JEJU_USDC_ADDRESS", "X402_FACILITATOR_ADDRESS", "FACILITATOR_URL"),
    *("X402_FACILITATOR_ADDRESS_BASE", "FACILITATOR_PRIVATE_KEY", "FACILITATOR_PRIVATE_KEY_FILE"),
    *("PROTOCOL_FEE_BPS", "FEE_RECIPIENT_ADDRESS", "MAX_PAYMENT_AGE", "MIN_PAYMENT_AMOUNT"),
    *(
        "DATABASE_URL",
        "SETTLE_TIMEOUT_SECONDS",
        "SETTLE_BATCH_MAX",
        "CONFIRMATIONS",
        "EIP6492_ALLOWED_FACTORIES",
    ),
    *("MAX_FEE_PER_GAS_GWEI", "LOG_FORMAT", "LOG_LEVEL", "MAX_GAS_SPEND_PER_DAY"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "TRACE_PROPAGATE_HOSTS"),
    *("METRICS", "METRICS_PORT", "READY_REQUIRES_RPC"),
    *("JEJU_CONFIRMATIONS", "RETENTION_DAYS"),
]


COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def test_spans_are_recorded_where_a_collector_is_named_and_nothing_forbids_it() -> None:
    assert load_config({}).tracing is None
    assert load_config({"OTEL_EXPORTER_OTLP_HEADERS": "a=b"}).tracing is None
    assert load_config(COLLECTOR).tracing is not None
    assert load_config({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector"}).tracing
    assert load_config(COLLECTOR | {"OTEL_SDK_DISABLED": "false"}).tracing is not None
    assert load_config(COLLECTOR | {"OTEL_SDK_DISABLED": "TRUE"}).tracing is None
    assert load_config(COLLECTOR | {"OTEL_TRACES_EXPORTER": "none"}).tracing is None


@pytest.mark.parametrize("share", ["0", "1", "0.25", ".5", "1.0"])
def test_a_share_of_the_traces_is_a_plain_fraction(share: str) -> None:
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
    load_config(ratio | {"OTEL_TRACES_SAMPLER_ARG": share})
    for bad in ("2", "-0.1", "1e-3", "10%", "0.5 ", "1.5", "nan"):
        line = refusal(ratio | {"OTEL_TRACES_SAMPLER_ARG": bad})
        assert line.startswith("OTEL_TRACES_SAMPLER_ARG ")


@pytest.mark.parametrize("name", VARIABLES)
def test_no_variable_repeats_its_value_when_it_is_refused(name: str) -> None:
    secret = f"{KEY_A}\n{'c0ffee' * 20}"
    line = refusal({name: secret})
    assert name in line
    assert "c0ffee" not in line
    assert KEY_A[2:] not in line


NEVER_EMPTY = ["FACILITATOR_ENV", "NODE_ENV", "FACILITATOR_CONFIG", "DATABASE_URL"]
NEVER_EMPTY += ["MAX_GAS_SPEND_PER_DAY", "METRICS_PORT"]


@pytest.mark.parametrize("name", sorted({*VARIABLES, *NEVER_EMPTY}))
def test_a_variable_that_is_set_to_nothing_counts_as_unset(name: str) -> None:
    """Unless money or secrets hang on what its default would be. Blanks are no value of any."""
    words = f"{name} is set but empty: give it a value or unset it"
    assert refusal({name: "  "}) == words
    if name in NEVER_EMPTY:
        assert refusal({name: ""}) == words
    else:
        assert load_config({name: ""}) == load_config({})


def test_the_alias_of_a_variable_that_is_set_to_nothing_counts() -> None:
    assert load_config({"FACILITATOR_PORT": "", "PORT": "8080"}).port == 8080
    # a mode that was meant for real money is never guessed
    assert refusal({"FACILITATOR_ENV": "", "NODE_ENV": "production"}).startswith("FACILITATOR_ENV")


def test_the_zero_address_says_that_there_is_none() -> None:
    """As the service before this one was told so; it goes before what is known of the network."""
    zero = "0x" + "00" * 20
    config = load_config(
        {
            "X402_FACILITATOR_ADDRESS": zero,
            "X402_FACILITATOR_ADDRESS_BASE": zero,
            "JEJU_USDC_ADDRESS": zero,
            "FEE_RECIPIENT_ADDRESS": zero,
        }
    )
    assert (config.primary.contract, config.networks["base"].contract) == (None, None)
    assert (config.primary.usdc, config.primary.tokens) == (None, ())
    assert config.fee_recipient is None
    assert refusal({"EIP6492_ALLOWED_FACTORIES": zero}).endswith("must not be the zero address")
    both = {"X402_FACILITATOR_ADDRESS": zero, "X402_FACILITATOR_ADDRESS_JEJU": CONTRACT}
    assert load_config(both).primary.contract == address(CONTRACT)


def test_the_repr_of_a_configuration_shows_no_key_and_no_rpc_url(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY_A}\n{KEY_B} retire\n")
    config = load_config(
        {
            "FACILITATOR_PRIVATE_KEY_FILE": str(file),
            "JEJU_RPC_URL": "https://me:hunter2@node.example/v3/apikey,http://10.0.0.7",
            "X402_FACILITATOR_ADDRESS": CONTRACT,
        }
    )
    shown = f"{config!r} {config} {config.keys} {config.networks} {config.primary}"
    for key in config.keys:
        for spelling in (key.secret.hex(), repr(key.secret), str(int.from_bytes(key.secret))):
            assert spelling not in shown
    for url_part in ("hunter2", "apikey", "node.example", "10.0.0.7"):
        assert url_part not in shown
    assert CONTRACT.lower() in shown
    assert "retires=True" in shown


def test_in_development_every_network_is_served_through_a_public_default() -> None:
    config = load_config({"BASE_RPC_URL": "https://node.example"})
    assert list(config.networks) == list(NETWORKS)
    assert config.unserved == ()
    for name, served in config.networks.items():
        assert served.explicit_rpc == (name == "base")
        if name != "base":
            assert served.rpc_urls == (NETWORKS[name].default_rpc_url,)


def test_in_production_a_network_without_its_own_endpoint_is_not_served() -> None:
    config = load_config(PRODUCTION | {"BASE_SEPOLIA_RPC_URL": "https://node.example"})
    assert list(config.networks) == ["jeju", "base-sepolia"]
    assert [(unserved.network, unserved.reason) for unserved in config.unserved] == [
        ("jeju-testnet", "JEJU_TESTNET_RPC_URL is not set"),
        ("base", "BASE_RPC_URL is not set"),
        ("sepolia", "SEPOLIA_RPC_URL is not set"),
        ("ethereum", "ETHEREUM_RPC_URL is not set"),
    ]
    assert config.log_format == "json"


def test_in_production_the_primary_network_needs_its_endpoint() -> None:
    assert refusal({"FACILITATOR_ENV": "production"}).startswith("JEJU_RPC_URL ")
    line = refusal(PRODUCTION | {"X402_PRIMARY_NETWORK": "base"})
    assert line.startswith("BASE_RPC_URL ")


def test_the_general_contract_address_belongs_to_the_primary_network_alone() -> None:
    config = load_config(
        {
            "X402_PRIMARY_NETWORK": "base-sepolia",
            "X402_FACILITATOR_ADDRESS": CONTRACT,
            "X402_FACILITATOR_ADDRESS_JEJU_TESTNET": OTHER,
        }
    )
    contracts = {name: served.contract for name, served in config.networks.items()}
    assert contracts == dict.fromkeys(NETWORKS) | {
        "base-sepolia": address(CONTRACT),
        "jeju-testnet": address(OTHER),
    }


def test_two_different_contracts_for_the_primary_network_are_refused() -> None:
    environ = {"X402_FACILITATOR_ADDRESS": CONTRACT, "X402_FACILITATOR_ADDRESS_JEJU": OTHER}
    assert "X402_FACILITATOR_ADDRESS_JEJU differ" in refusal(environ)
    same = environ | {"X402_FACILITATOR_ADDRESS_JEJU": CONTRACT.lower()}
    assert load_config(same).primary.contract == address(CONTRACT)


@pytest.mark.parametrize("suffix", ["BASE_SEPOLA", "base", "", "POLYGON", "BASE-SEPOLIA"])
def test_a_contract_for_an_unknown_network_stops_the_start(suffix: str) -> None:
    name = f"X402_FACILITATOR_ADDRESS_{suffix}"
    assert refusal({name: CONTRACT}).startswith(f"{name} ")


def test_usdc_elsewhere_keeps_the_domain_of_its_network() -> None:
    config = load_config(
        {"JEJU_TESTNET_USDC_ADDRESS": OTHER, "SEPOLIA_USDC_ADDRESS": CONTRACT.lower()}
    )
    testnet = config.networks["jeju-testnet"].usdc
    sepolia = config.networks["sepolia"].usdc
    assert testnet is not None
    assert sepolia is not None
    assert (testnet.address, testnet.name, testnet.version) == (address(OTHER), "USD Coin", "2")
    assert (sepolia.address, sepolia.name, sepolia.version) == (address(CONTRACT), "USDC", "2")
    assert load_config({}).networks["jeju-testnet"].usdc is None


def test_what_is_missing_for_settling_is_said_in_words(tmp_path: Path) -> None:
    nothing = load_config({})
    assert nothing.missing == (
        "no signing key (FACILITATOR_PRIVATE_KEY)",
        "no contract on jeju (X402_FACILITATOR_ADDRESS)",
    )
    key = {"FACILITATOR_PRIVATE_KEY": KEY_A}
    assert load_config(key).missing == nothing.missing[1:]
    contract = {"X402_FACILITATOR_ADDRESS": CONTRACT}
    assert load_config(contract).missing == nothing.missing[:1]
    assert load_config(key | contract).missing == ()
    file = tmp_path / "keys"
    file.write_text(f"{KEY_A} retire")
    retired = contract | {"FACILITATOR_PRIVATE_KEY_FILE": str(file)}
    assert load_config(retired).missing == nothing.missing[:1]


def test_a_configuration_cannot_be_changed() -> None:
    config: Config = load_config({})
    with pytest.raises(AttributeError):
        config.port = 1  # type: ignore[misc]
