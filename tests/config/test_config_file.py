"""The configuration file, and tokens from either place: right, or refused with one line that names
the member and repeats no value.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from facilitator.config.file import FILE_LIMIT, NetworkEntry
from facilitator.config.networks import NETWORKS, Token
from facilitator.config.settings import Config, ConfigError, NetworkConfig, load_config
from tests.support.paths import ROOT

DOCUMENT = ROOT / "docs" / "configuration.md"
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
OTHER = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
EURC = "0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42"
USDC_OF_BASE = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
EURC_ENTRY = f"{EURC}|EURC|6|EURC|2"
EURC_TOKEN = Token(bytes.fromhex(EURC[2:]), "EURC", 6, "EURC", "2")
EURC_TABLE = f'address = "{EURC}"\nsymbol = "EURC"\ndecimals = 6\nname = "EURC"\nversion = "2"\n'
SECRET = "c0ffee" * 11
ANVIL = "[networks.anvil]\nchain_id = 31337\n"

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a file of this content, beside other variables."""

    def loaded(content: str, **environ: str) -> Config:
        file = tmp_path / "facilitator.toml"
        file.write_text(content, "utf-8")
        return load_config({"FACILITATOR_CONFIG": str(file), **environ})

    return loaded


@pytest.fixture
def refusal(load: Load) -> Callable[..., str]:
    """The line that refuses a file of this content, which stands under the file's variable."""

    def refused(content: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(content, **environ)
        line = str(caught.value)
        assert "\n" not in line
        assert SECRET not in line
        assert SECRET[:12] not in line
        return line

    return refused


def refused_tokens(value: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config({"BASE_TOKENS": value})
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("BASE_TOKENS")
    return line


def address(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def test_the_tokens_of_a_network_are_its_usdc_and_then_those_of_the_variable() -> None:
    config = load_config({"BASE_TOKENS": f" {EURC_ENTRY} ,\n{OTHER}|T|0|Two  Words|1.0"})
    base = config.networks["base"]
    assert base.usdc is not None
    assert base.tokens == (
        base.usdc,
        EURC_TOKEN,
        Token(address(OTHER), "T", 0, "Two  Words", "1.0"),
    )
    assert config.networks["jeju-testnet"].tokens == ()
    for name, network in load_config({}).networks.items():
        assert network.tokens == (() if network.usdc is None else (network.usdc,)), name
    testnet = load_config({"JEJU_TESTNET_TOKENS": EURC_ENTRY}).networks["jeju-testnet"]
    assert (testnet.usdc, testnet.tokens) == (None, (EURC_TOKEN,))


@pytest.mark.parametrize(
    ("entry", "member"),
    [
        (f"{EURC}|EURC|6|EURC", "must be address|symbol|decimals|name|version"),
        (f"{EURC_ENTRY}|", "must be address|symbol|decimals|name|version"),
        (EURC, "must be address|symbol|decimals|name|version"),
        (f"{EURC[:-1]}|EURC|6|EURC|2", "address must be an address"),
        (f"0x{'00' * 20}|EURC|6|EURC|2", "address must not be the zero address"),
        (f"{EURC} |EURC|6|EURC|2", "address must be an address"),
        (f"{EURC}||6|EURC|2", "symbol must be printable"),
        (f"{EURC}|{'E' * 33}|6|EURC|2", "symbol must be printable"),
        (f"{EURC}|EURC||EURC|2", "decimals must be an integer"),
        (f"{EURC}|EURC|256|EURC|2", "decimals must be an integer"),
        (f"{EURC}|EURC|-1|EURC|2", "decimals must be an integer"),
        (f"{EURC}|EURC|06|EURC|2", "decimals must be an integer"),
        (f"{EURC}|EURC|6.0|EURC|2", "decimals must be an integer"),
        (f"{EURC}|EURC|\uff16|EURC|2", "decimals must be an integer"),
        (f"{EURC}|EURC|{'9' * 5000}|EURC|2", "decimals must be an integer"),
        (f"{EURC}|EURC|6||2", "name must be printable"),
        (f"{EURC}|EURC|6| EURC|2", "name must be printable"),
        (f"{EURC}|EURC|6|EU\tRC|2", "name must be printable"),
        (f"{EURC}|EURC|6|{'E' * 101}|2", "name must be printable"),
        (f"{EURC}|EURC|6|EURC|", "version must be printable"),
        (f"{EURC}|EURC|6|EURC|{'1' * 33}", "version must be printable"),
    ],
)
def test_an_entry_of_the_variable_is_right_or_refused_by_its_place(entry: str, member: str) -> None:
    line = refused_tokens(entry)
    assert member in line
    if entry:
        second = refused_tokens(f"{OTHER}|T|6|T|1,{entry}")
        assert second.startswith("BASE_TOKENS, token 2: ")
        assert member in second


def test_no_token_is_named_twice_and_no_network_has_too_many() -> None:
    assert "same address twice" in refused_tokens(f"{EURC_ENTRY},{EURC.lower()}|X|2|X|1")
    assert "empty item" in refused_tokens(f"{EURC_ENTRY},")
    usdc = f"{USDC_OF_BASE}|USDC|6|USD Coin|2"
    assert "must not name the network's USDC" in refused_tokens(usdc)
    moved = load_config({"BASE_USDC_ADDRESS": OTHER, "BASE_TOKENS": usdc}).networks["base"]
    assert [token.address for token in moved.tokens] == [address(OTHER), address(USDC_OF_BASE)]
    many = [f"0x{number:040x}|T|6|T|1" for number in range(1, 102)]
    assert len(load_config({"BASE_TOKENS": ",".join(many[:100])}).networks["base"].tokens) == 101
    assert "100 tokens at most" in refused_tokens(",".join(many))


def test_every_member_of_the_file_reaches_the_field_that_it_names(load: Load) -> None:
    config = load(
        f"""
        eip6492_allowed_factories = ["{CONTRACT}", "{OTHER}"]
        [networks.my-chain]
        chain_id = {2**53 - 1}
        title = "My chain"
        rpc_urls = ["https://one.example/key", "http://10.0.0.7"]
        contract = "{CONTRACT}"
        usdc = "{OTHER}"
        usdc_name = "Bridged USDC"
        explorer = "https://explorer.example"
        native_symbol = "MINE"
        native_name = "Mine"
        native_decimals = 0
        mainnet = true
        confirmations = 3
        [[networks.my-chain.tokens]]
        {EURC_TABLE}
        """,
        X402_PRIMARY_NETWORK="my-chain",
    )
    assert config.allowed_factories == (address(CONTRACT), address(OTHER))
    assert list(config.networks) == [*NETWORKS, "my-chain"]
    mine, network = config.primary, config.primary.network
    assert (network.name, network.chain_id, network.title) == ("my-chain", 2**53 - 1, "My chain")
    assert (network.caip2, network.variable) == (f"eip155:{2**53 - 1}", "MY_CHAIN")
    assert mine.rpc_urls == ("https://one.example/key", "http://10.0.0.7")
    assert mine.explicit_rpc
    assert mine.contract == address(CONTRACT)
    usdc = Token(address(OTHER), "USDC", 6, "Bridged USDC", "2")
    assert (mine.usdc, mine.tokens) == (usdc, (usdc, EURC_TOKEN))
    assert network.explorer == "https://explorer.example"
    native = (network.native_symbol, network.native_name, network.native_decimals)
    assert native == ("MINE", "Mine", 0)
    assert network.is_mainnet
    assert mine.confirmations == 3


def test_confirmations_of_a_network_go_before_those_of_all(load: Load) -> None:
    """What is said of one network counts before what is said of all, the environment first."""
    text = ANVIL + 'rpc_urls = ["http://127.0.0.1:8545"]\nconfirmations = 3\n'
    assert load(text, CONFIRMATIONS="9").networks["anvil"].confirmations == 3
    assert load(text, ANVIL_CONFIRMATIONS="4").networks["anvil"].confirmations == 4
    assert load(text, CONFIRMATIONS="9").networks["jeju"].confirmations == 9


def test_a_new_network_needs_no_more_than_a_chain_id_and_an_endpoint(load: Load) -> None:
    """The endpoint may come from the environment, and without one it is not served."""
    bare = load(ANVIL)
    assert list(bare.networks) == list(NETWORKS)
    [unserved] = bare.unserved
    assert (unserved.network, unserved.reason) == ("anvil", "ANVIL_RPC_URL is not set")
    anvil = load(ANVIL, ANVIL_RPC_URL="http://127.0.0.1:8545").networks["anvil"]
    assert anvil.rpc_urls == ("http://127.0.0.1:8545",)
    network = anvil.network
    assert (network.title, network.usdc, network.explorer) == ("anvil", None, None)
    assert (network.native_symbol, network.native_decimals) == ("ETH", 18)
    assert not network.is_mainnet
    with pytest.raises(ConfigError, match="ANVIL_RPC_URL must be set: anvil is the primary"):
        load(ANVIL, X402_PRIMARY_NETWORK="anvil")


def test_the_environment_goes_before_the_file_value_by_value(load: Load) -> None:
    """Of a list it says all: nothing of the file's list is added to it."""
    content = f"""
        eip6492_allowed_factories = ["{CONTRACT}"]
        [networks.base]
        chain_id = 8453
        rpc_urls = ["https://file.example"]
        contract = "{CONTRACT}"
        usdc = "{CONTRACT}"
        usdc_name = "USDC"
        [[networks.base.tokens]]
        {EURC_TABLE}
        """
    told = load(content).networks["base"]
    assert told.usdc is not None
    assert (told.usdc.address, told.usdc.name) == (address(CONTRACT), "USDC")
    assert told.network.title == NETWORKS["base"].title
    assert told.network.is_mainnet
    for variable, value, field, expected in (
        ("BASE_RPC_URL", "https://env.example", "rpc_urls", ("https://env.example",)),
        ("X402_FACILITATOR_ADDRESS_BASE", OTHER, "contract", address(OTHER)),
        ("BASE_USDC_ADDRESS", OTHER, "usdc", Token(address(OTHER), "USDC", 6, "USDC", "2")),
        (
            "BASE_TOKENS",
            f"{OTHER}|T|6|T|1",
            "tokens",
            (told.usdc, Token(address(OTHER), "T", 6, "T", "1")),
        ),
    ):
        changed = load(content, **{variable: value}).networks["base"]
        assert getattr(changed, field) == expected
        assert getattr(told, field) != expected
    config = load(content, EIP6492_ALLOWED_FACTORIES=OTHER)
    assert config.allowed_factories == (address(OTHER),)
    primary = {"X402_PRIMARY_NETWORK": "base", "X402_FACILITATOR_ADDRESS": OTHER}
    assert load(content, **primary).primary.contract == address(OTHER)
    assert load(content, X402_PRIMARY_NETWORK="base").primary.contract == address(CONTRACT)
    assert "BASE_TOKENS" in refused_tokens(EURC)  # judged also where the other place has a list


def test_an_endpoint_of_the_file_is_one_that_somebody_chose(load: Load) -> None:
    content = '[networks.base]\nrpc_urls = ["https://file.example"]\n'
    production = {"FACILITATOR_ENV": "production", "X402_PRIMARY_NETWORK": "base"}
    config = load(content, **production)
    assert list(config.networks) == ["base"]
    assert config.primary.explicit_rpc
    with pytest.raises(ConfigError, match="BASE_RPC_URL must be set in production"):
        load("", **production)


def test_a_contract_variable_may_name_a_network_of_the_file(load: Load) -> None:
    variables = {"ANVIL_RPC_URL": "http://n.example", "X402_FACILITATOR_ADDRESS_ANVIL": CONTRACT}
    assert load(ANVIL, **variables).networks["anvil"].contract == address(CONTRACT)
    with pytest.raises(ConfigError, match="X402_FACILITATOR_ADDRESS_ANVIL names no known network"):
        load("", **variables)


NETWORK = "networks.base."


@pytest.mark.parametrize(
    ("content", "member"),
    [
        ("network = 1", "network is not known; known: networks, eip6492_allowed_factories"),
        (f'"{SECRET}" = 1', "a member is not known"),
        ('"a b" = 1', "a member is not known"),
        ("networks = 1", "networks must be a table"),
        ("[[networks]]", "networks must be a table"),
        ("networks.base = 1", "networks.base must be a table"),
        ('[networks."eip155:8453"]', "networks must have names of a-z"),
        ("[networks.Base]", "networks must have names of a-z"),
        ("[networks.my_chain]", "networks must have names of a-z"),
        ("[networks.8453]", "networks must have names of a-z"),
        (f"[networks.a{'b' * 32}]", "networks must have names of a-z"),
        ('[networks."base\\n"]', "networks must have names of a-z"),
        (f"[networks.{SECRET}]", "networks must have names of a-z"),
        ("[networks.mine]", "networks.mine.chain_id must be given"),
        ("[networks.mine]\nchain_id = 0", "networks.mine.chain_id must be given, an integer"),
        (f"[networks.mine]\nchain_id = {2**53}", "networks.mine.chain_id must be given"),
        ("[networks.mine]\nchain_id = true", "networks.mine.chain_id must be an integer"),
        ("[networks.mine]\nchain_id = 1.0", "networks.mine.chain_id must be an integer"),
        ("[networks.mine]\nchain_id = 8453", "networks.mine.chain_id is that of base"),
        (f"{ANVIL}[networks.mine]\nchain_id = 31337", "networks.mine.chain_id is that of anvil"),
        ("[networks.base]\nchain_id = 1", f"{NETWORK}chain_id must be 8453, which base has"),
        ("[networks.base]\nmainnet = false", f"{NETWORK}mainnet must be true, which base is"),
        ("[networks.base]\nmainnet = 1", f"{NETWORK}mainnet must be true or false"),
        ("[networks.base]\nprivate_key = 1", f"{NETWORK}private_key is not known; known: chain_id"),
        ("[networks.base]\ntitle = 1", f"{NETWORK}title must be a string"),
        ('[networks.base]\ntitle = ""', f"{NETWORK}title must be printable"),
        (f'[networks.base]\ntitle = "{SECRET * 2}"', f"{NETWORK}title must be printable"),
        ('[networks.base]\nnative_symbol = "a\\nb"', f"{NETWORK}native_symbol must be printable"),
        ('[networks.base]\nnative_name = " a"', f"{NETWORK}native_name must be printable"),
        ("[networks.base]\nconfirmations = 0", f"{NETWORK}confirmations must be from 1 to 64"),
        ("[networks.base]\nconfirmations = 65", f"{NETWORK}confirmations must be from 1 to 64"),
        ("[networks.base]\nconfirmations = true", f"{NETWORK}confirmations must be an integer"),
        ("[networks.base]\nnative_decimals = 256", f"{NETWORK}native_decimals must be an integer"),
        ("[networks.base]\nnative_decimals = -1", f"{NETWORK}native_decimals must be an integer"),
        ('[networks.base]\nnative_decimals = "1"', f"{NETWORK}native_decimals must be an integer"),
        (f'[networks.base]\nusdc_name = "{SECRET * 2}"', f"{NETWORK}usdc_name must be printable"),
        (f'[networks.base]\nusdc = "{SECRET}"', f"{NETWORK}usdc must be an address"),
        ('[networks.base]\nusdc = ""', f"{NETWORK}usdc must be an address"),
        ("[networks.base]\nusdc = 1", f"{NETWORK}usdc must be a string"),
        (f'[networks.base]\ncontract = "0x{"00" * 20}"', f"{NETWORK}contract must not be the zero"),
        (f'[networks.base]\nexplorer = "{SECRET}"', f"{NETWORK}explorer must be an http"),
        ('[networks.base]\nexplorer = ""', f"{NETWORK}explorer must be an http"),
        (
            f'[networks.base]\nexplorer = "https://me:{SECRET}@explorer.example"',
            f"{NETWORK}explorer must not contain credentials",
        ),
        (f'[networks.base]\nrpc_urls = "https://{SECRET}"', f"{NETWORK}rpc_urls must be an array"),
        ("[networks.base]\nrpc_urls = []", f"{NETWORK}rpc_urls must name one URL at least"),
        ("[networks.base]\nrpc_urls = [1]", f"{NETWORK}rpc_urls[0] must be a string"),
        (
            f'[networks.base]\nrpc_urls = ["http://n.example", "{SECRET}"]',
            f"{NETWORK}rpc_urls[1] must be an http",
        ),
        (
            f'[networks.base]\nrpc_urls = ["http://{SECRET}", "http://{SECRET}"]',
            f"{NETWORK}rpc_urls names the same URL twice",
        ),
        ("[networks.base]\ntokens = 1", f"{NETWORK}tokens must be an array"),
        ("[networks.base]\ntokens = [1]", f"{NETWORK}tokens[0] must be a table"),
        ("eip6492_allowed_factories = 1", "eip6492_allowed_factories must be an array"),
        ("eip6492_allowed_factories = [1]", "eip6492_allowed_factories[0] must be a string"),
        (
            f'eip6492_allowed_factories = ["{OTHER}", "{SECRET}"]',
            "eip6492_allowed_factories[1] must be an address",
        ),
        (
            f'eip6492_allowed_factories = ["{OTHER}", "{OTHER.lower()}"]',
            "eip6492_allowed_factories names the same address twice",
        ),
        (f"\n\nrpc_urls = {SECRET}", "the file is not TOML, line 3"),
        (f'title = "{SECRET}', "the file is not TOML"),
        (f"[networks.base]\ntitle = '{SECRET}'\ntitle = 'b'\n", "the file is not TOML, line 3"),
        (f"chain_id = {'9' * 5000}", "the file is not TOML"),
        ("when = 2024-99-99", "the file is not TOML"),
        # Which of the two it is depends on Python's version.
        (f"a = {'[' * 50_000}", "the file is n"),
    ],
)
def test_a_wrong_file_is_refused_by_its_member(
    refusal: Callable[..., str], content: str, member: str
) -> None:
    assert refusal(content).startswith(f"FACILITATOR_CONFIG: {member}")


@pytest.mark.parametrize(
    ("old", "new", "member"),
    [
        ('symbol = "EURC"\n', "", "symbol must be a string"),
        ('name = "EURC"\n', "", "name must be a string"),
        ('version = "2"\n', "", "version must be a string"),
        ('version = "2"', "version = 2", "version must be a string"),
        ("decimals = 6\n", "", "decimals must be an integer from 0 to 255"),
        ("decimals = 6", "decimals = 256", "decimals must be an integer from 0 to 255"),
        ("decimals = 6", 'decimals = "6"', "decimals must be an integer"),
        (f'address = "{EURC}"\n', "", "address must be a string"),
        (EURC, SECRET, "address must be an address"),
        ('name = "EURC"', f'name = "{SECRET * 2}"', "name must be printable"),
        ('symbol = "EURC"', 'symbol = ""', "symbol must be printable"),
        ("decimals = 6", "decimals = 6\ndecimal = 6", "decimal is not known; known: address"),
    ],
)
def test_a_wrong_token_is_refused_by_its_place_and_member(
    refusal: Callable[..., str], old: str, new: str, member: str
) -> None:
    good = "[[networks.base.tokens]]\n"
    first = f"{good}{EURC_TABLE.replace(EURC, OTHER)}"
    line = refusal(first + good + EURC_TABLE.replace(old, new, 1))
    assert line.startswith(f"FACILITATOR_CONFIG: networks.base.tokens[1].{member}")


def test_the_file_names_no_token_twice(refusal: Callable[..., str]) -> None:
    token = f"[[networks.base.tokens]]\n{EURC_TABLE}"
    place = "FACILITATOR_CONFIG: networks.base.tokens"
    assert refusal(token * 2) == f"{place} names the same address twice"
    usdc = token.replace(EURC, USDC_OF_BASE)
    assert refusal(usdc).startswith(f"{place} must not name the network's USDC")
    assert refusal(token, BASE_USDC_ADDRESS=EURC).startswith(f"{place} must not name")
    many = [token.replace(EURC, f"0x{number:040x}") for number in range(1, 102)]
    assert refusal("".join(many)) == f"{place} must name 100 tokens at most"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, load: Load) -> None:
    for path in (str(tmp_path / SECRET), str(tmp_path), f"{SECRET}\0", SECRET):
        with pytest.raises(ConfigError) as caught:
            load_config({"FACILITATOR_CONFIG": path})
        assert str(caught.value).startswith("FACILITATOR_CONFIG")
        assert SECRET not in str(caught.value)
    for empty in ("", "  "):
        with pytest.raises(ConfigError, match="FACILITATOR_CONFIG is set but empty"):
            load_config({"FACILITATOR_CONFIG": empty})
    file = tmp_path / "config"
    file.write_bytes(b'title = "\xff"')
    with pytest.raises(ConfigError, match="FACILITATOR_CONFIG: the file is not UTF-8"):
        load_config({"FACILITATOR_CONFIG": str(file)})
    padding = "#" * (FILE_LIMIT - 1) + "\n"
    assert load(padding).networks == load_config({}).networks
    with pytest.raises(ConfigError, match="FACILITATOR_CONFIG: the file is larger"):
        load(padding + "\n")


def test_an_endpoint_of_the_file_shows_in_no_repr(load: Load) -> None:
    url = f"https://me:hunter2@node.example/{SECRET}"
    config = load(f'{ANVIL}rpc_urls = ["{url}"]\n', X402_PRIMARY_NETWORK="anvil")
    entry = NetworkEntry(network=config.primary.network, rpc_urls=(url,))
    served: NetworkConfig = config.primary
    shown = f"{config!r} {served} {config.networks} {entry!r}"
    for part in ("hunter2", "node.example", SECRET):
        assert part not in shown


def test_the_example_of_the_documents_is_a_file_that_loads(load: Load) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    config = load(example, X402_PRIMARY_NETWORK="my-chain")
    assert config.primary.network.chain_id == 31337
    assert config.primary.rpc_urls
    assert [token.symbol for token in config.primary.tokens] == ["USDC"]
    assert [token.symbol for token in config.networks["base"].tokens] == ["USDC", "EURC"]
    assert config.networks["base"].tokens[1] == EURC_TOKEN
    assert len(config.allowed_factories) == 1
    members = set(re.findall(r"^(\w+) = ", example, re.MULTILINE))
    assert members >= {"chain_id", "title", "rpc_urls", "contract", "usdc", "usdc_name"}
    assert members >= {"explorer", "native_symbol", "native_name", "native_decimals", "mainnet"}
