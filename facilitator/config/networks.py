"""The networks that are known by name, with the USDC of each."""

from typing import Final

from msgspec import Struct

from facilitator.ethereum.addresses import parse_address


class Unit(Struct, frozen=True):
    """The unit in which people write amounts: one `symbol` is 10 ** `decimals` atomic units."""

    symbol: str
    decimals: int


class Token(Struct, frozen=True):
    """An ERC-20 token; `name` and `version` are those of its EIP-712 domain (EIP-3009, EIP-2612).

    They are what the token's contract hashes, not what a wallet shows: Circle deployed its test
    tokens under the name "USDC" and the real ones as "USD Coin".
    """

    address: bytes
    symbol: str
    decimals: int
    name: str
    version: str


class Network(Struct, frozen=True, kw_only=True):
    """A chain that payments may name. `usdc` is None where there is no USDC that everybody uses,
    `default_rpc_url` where there is no public endpoint.
    """

    name: str
    chain_id: int
    title: str
    usdc: bytes | None = None
    usdc_domain_name: str = "USD Coin"
    default_rpc_url: str | None = None
    explorer: str | None = None
    native_symbol: str = "ETH"
    native_name: str = "Ether"
    native_decimals: int = 18
    # Money of value moves here. jeju counts as a test network: its default endpoint is this very
    # machine, and the embedded chain carries its chain id.
    is_mainnet: bool = False

    @property
    def caip2(self) -> str:
        """The network's name in version 2 of the standard dialect (CAIP-2)."""
        return f"eip155:{self.chain_id}"

    @property
    def variable(self) -> str:
        """The network's part of an environment variable's name: base-sepolia is BASE_SEPOLIA."""
        return self.name.upper().replace("-", "_")

    def usdc_at(self, address: bytes) -> Token:
        """Return USDC as deployed at `address` on this network; FiatTokenV2 has version "2"."""
        return Token(address, "USDC", 6, self.usdc_domain_name, "2")


NETWORKS: Final[dict[str, Network]] = {
    network.name: network
    for network in (
        Network(
            name="jeju",
            chain_id=420691,
            title="Jeju",
            usdc=parse_address("0x0165878A594ca255338adfa4d48449f69242Eb8F"),
            default_rpc_url="http://127.0.0.1:9545",
        ),
        Network(
            name="jeju-testnet",
            chain_id=420690,
            title="Jeju Testnet",
            default_rpc_url="https://testnet-rpc.jeju.network",
        ),
        Network(
            name="base-sepolia",
            chain_id=84532,
            title="Base Sepolia",
            usdc=parse_address("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
            usdc_domain_name="USDC",
            default_rpc_url="https://sepolia.base.org",
            explorer="https://sepolia.basescan.org",
        ),
        Network(
            name="base",
            chain_id=8453,
            title="Base",
            usdc=parse_address("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
            default_rpc_url="https://mainnet.base.org",
            explorer="https://basescan.org",
            is_mainnet=True,
        ),
        Network(
            name="sepolia",
            chain_id=11155111,
            title="Sepolia",
            usdc=parse_address("0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238"),
            usdc_domain_name="USDC",
            default_rpc_url="https://ethereum-sepolia-rpc.publicnode.com",
            explorer="https://sepolia.etherscan.io",
        ),
        Network(
            name="ethereum",
            chain_id=1,
            title="Ethereum",
            usdc=parse_address("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"),
            default_rpc_url="https://eth.llamarpc.com",
            explorer="https://etherscan.io",
            is_mainnet=True,
        ),
    )
}
