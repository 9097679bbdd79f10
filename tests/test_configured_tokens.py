"""What the running service does with the tokens and networks of its configuration."""

from pathlib import Path

import pytest

from facilitator.devnet import Devnet
from facilitator.ethereum.addresses import checksum
from tests.chain import devnet_payment
from tests.service import serve

pytestmark = pytest.mark.anyio

POINTS = b"\x21" * 20
CENTS = b"\x22" * 20


async def test_all_tokens_are_listed_between_usdc_and_the_native_currency(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The network of the file is served beside the known ones, and primary where it is said."""
    file = tmp_path / "facilitator.toml"
    file.write_text(
        f"""
        [networks.my-chain]
        chain_id = 420692
        rpc_urls = ["{devnet.url}"]
        usdc = "{checksum(devnet.usdc)}"
        usdc_name = "Bridged USDC"
        native_symbol = "MINE"
        native_name = "Mine"
        native_decimals = 9
        [[networks.my-chain.tokens]]
        address = "{checksum(POINTS)}"
        symbol = "PTS"
        decimals = 0
        name = "Points"
        version = "1"
        """
    )
    variables = {
        "FACILITATOR_CONFIG": str(file),
        "X402_PRIMARY_NETWORK": "my-chain",
        "JEJU_TOKENS": f"{checksum(POINTS)}|PTS|0|Points|1,{checksum(CENTS)}|CT|2|Two Cents|1",
    }
    usdc = {
        "address": checksum(devnet.usdc),
        "symbol": "USDC",
        "decimals": 6,
        "name": "USD Coin",
    }
    points = {"address": checksum(POINTS), "symbol": "PTS", "decimals": 0, "name": "Points"}
    cents = {"address": checksum(CENTS), "symbol": "CT", "decimals": 2, "name": "Two Cents"}
    zero = "0x" + "0" * 40
    async with serve(devnet, tmp_path, **variables) as service:
        [started] = service.logged("started")
        assert started["settling"] == ["my-chain"]
        assert devnet.url not in service.output.decode()
        jeju = (await service.get("/supported/tokens/jeju"))[1]["tokens"]
        mine = (await service.get("/supported/tokens/my-chain"))[1]["tokens"]
        assert (await service.get("/"))[1]["chainId"] == 420692
    ether = {"address": zero, "symbol": "ETH", "decimals": 18, "name": "Ether"}
    assert jeju == [usdc, points, cents, ether]
    native = {"address": zero, "symbol": "MINE", "decimals": 9, "name": "Mine"}
    assert mine == [usdc, points, native]


async def test_an_amount_of_a_configured_token_is_told_in_its_units(
    devnet: Devnet, tmp_path: Path
) -> None:
    tokens = f"{checksum(CENTS)}|CT|2|Two Cents|1"
    header = devnet_payment(devnet, asset=CENTS, amount=150)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens) as service:
        reply = await service.settle(header)
    assert reply["error"] == f"Token not supported: {checksum(CENTS)}"
    assert reply["amount"] == {"human": "1.5", "base": "150", "symbol": "CT", "decimals": 2}
