"""The table of networks, against what the chains themselves say."""

import pytest
from eth_account.messages import encode_typed_data
from eth_utils import to_checksum_address

from facilitator.config.networks import NETWORKS

# name: chain id, USDC, and DOMAIN_SEPARATOR() as the deployed token answers it
DEPLOYED = {
    "jeju": (420691, "0x0165878A594ca255338adfa4d48449f69242Eb8F", None),
    "jeju-testnet": (420690, None, None),
    "base-sepolia": (
        84532,
        "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818",
    ),
    "base": (
        8453,
        "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f",
    ),
    "sepolia": (11155111, "0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238", None),
    "ethereum": (
        1,
        "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48",
        "06c37168a7db5138defc7866392bb87a741f9b3d104deb5094588ce041cae335",
    ),
}


def test_the_table_names_every_network_once() -> None:
    assert list(NETWORKS) == list(DEPLOYED)
    assert all(name == network.name for name, network in NETWORKS.items())
    assert len({network.chain_id for network in NETWORKS.values()}) == len(NETWORKS)


@pytest.mark.parametrize("name", DEPLOYED)
def test_chain_id_and_usdc_are_the_deployed_ones(name: str) -> None:
    chain_id, usdc, _ = DEPLOYED[name]
    network = NETWORKS[name]
    assert network.chain_id == chain_id
    assert network.caip2 == f"eip155:{chain_id}"
    assert (None if network.usdc is None else to_checksum_address(network.usdc)) == usdc


@pytest.mark.parametrize("name", [name for name in DEPLOYED if DEPLOYED[name][2]])
def test_the_domain_of_usdc_hashes_to_what_the_token_itself_answers(name: str) -> None:
    """A wrong name or version makes every authorization of that token unverifiable."""
    network = NETWORKS[name]
    assert network.usdc is not None
    token = network.usdc_at(network.usdc)
    domain = {
        "name": token.name,
        "version": token.version,
        "chainId": network.chain_id,
        "verifyingContract": to_checksum_address(token.address),
    }
    # eth-account hashes the domain into the header of the signable message
    message = encode_typed_data(domain, {"Nothing": []}, {})
    assert message.header.hex() == DEPLOYED[name][2]
    assert (token.symbol, token.decimals) == ("USDC", 6)


def test_only_networks_whose_money_has_value_are_mainnets() -> None:
    assert {network.name for network in NETWORKS.values() if network.is_mainnet} == {
        "base",
        "ethereum",
    }


def test_only_the_jeju_default_endpoint_is_this_machine() -> None:
    """A public default must be encrypted; loopback need not be."""
    for network in NETWORKS.values():
        assert network.default_rpc_url is not None
        local = network.default_rpc_url == "http://127.0.0.1:9545"
        assert local == (network.name == "jeju")
        assert local or network.default_rpc_url.startswith("https://")
        assert network.explorer is None or network.explorer.startswith("https://")


def test_a_network_names_its_environment_variables_in_capitals() -> None:
    assert NETWORKS["base-sepolia"].variable == "BASE_SEPOLIA"
    assert NETWORKS["jeju"].variable == "JEJU"
