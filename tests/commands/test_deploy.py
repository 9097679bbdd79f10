"""The command `deploy`, as a real process against real chains."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import approve, balance, devnet_payment, read, settled_logs, unhex
from tests.support.commands import Ended, called, facilitator
from tests.support.encoding import calldata
from tests.support.faultproxy import (
    Answer,
    Call,
    Forward,
    answer_with,
    fault_proxy,
    lose_reply,
    refuse_with,
)
from tests.support.service import environment, launch

pytestmark = pytest.mark.anyio

NOBODY = "0x" + "12" * 20


def settings(devnet: Devnet, folder: Path, **changes: str) -> dict[str, str]:
    """The devnet's environment, without its contract."""
    variables = environment(devnet, folder, **changes)
    variables.pop("X402_FACILITATOR_ADDRESS")
    return variables


async def deployed(variables: dict[str, str], *options: str) -> dict[str, Any]:
    ended = await facilitator("deploy", variables, "--json", *options)
    assert ended.code == 0, ended.errors
    description: dict[str, Any] = json.loads(ended.output)
    return description


async def sent(devnet: Devnet) -> int:
    """How many transactions the signer has sent, mined or not."""
    address = "0x" + devnet.signer.address.hex()
    return int(str(await devnet.rpc("eth_getTransactionCount", address, "pending")), 16)


async def test_what_it_deploys_passes_check_and_settles_a_payment(
    devnet: Devnet, tmp_path: Path
) -> None:
    """With the printed lines taken over by a shell, as they are meant to be."""
    variables = settings(devnet, tmp_path)
    ended = await facilitator("deploy", variables)
    assert ended.code == 0, ended.errors
    comment, export = ended.output.splitlines()
    name, _, value = export.removeprefix("export ").partition("=")
    assert name == "X402_FACILITATOR_ADDRESS"
    assert comment == f"# X402Facilitator on jeju: {value}"
    assert value == to_checksum_address(value)
    assert ended.errors.splitlines()[-1].endswith("run `facilitator check`")

    contract = unhex(value)
    assert contract != devnet.contract
    owner = await read(devnet, contract, "owner()", returns="address")
    assert unhex(owner) == devnet.signer.address
    ready = {**variables, name: value}
    checked = await facilitator("check", ready)
    assert (checked.code, checked.errors) == (0, ""), checked.output

    await approve(devnet, spender=contract)
    async with launch(ready) as service:
        await service.started()
        reply = await service.settle(devnet_payment(devnet, contract=contract))
    assert reply["success"], reply
    [log] = await settled_logs(devnet, contract)
    assert (log.payer, log.amount) == (devnet.payer.address, 1_000_000)
    assert await balance(devnet, devnet.fee_recipient.address) - log.protocol_fee == 10**12


async def test_every_option_reaches_the_contract(devnet: Devnet, tmp_path: Path) -> None:
    tokens = (devnet.usdc, devnet.contract)
    told = await deployed(
        settings(devnet, tmp_path),
        *("--owner", NOBODY, "--fee-recipient", "0x" + "34" * 20),
        *(text for token in tokens for text in ("--token", "0x" + token.hex())),
        *("--network-name", "elsewhere"),
    )
    contract = unhex(told["contract"])
    assert await read(devnet, contract, "owner()", returns="address") == NOBODY
    assert await read(devnet, contract, "feeRecipient()", returns="address") == "0x" + "34" * 20
    for token in tokens:
        assert await read(devnet, contract, "supportedTokens(address)", token, returns="bool")
    assert told["tokens"] == [to_checksum_address(token) for token in tokens]
    assert (told["network"], told["networkName"]) == ("jeju", "elsewhere")
    # the environment that fits it says that the fees go elsewhere too
    assert told["environment"] == {
        "X402_FACILITATOR_ADDRESS": told["contract"],
        "FEE_RECIPIENT_ADDRESS": to_checksum_address("0x" + "34" * 20),
    }
    receipt: Any = await devnet.rpc("eth_getTransactionReceipt", told["transaction"])
    assert (unhex(receipt["contractAddress"]), receipt["status"]) == (contract, "0x1")
    assert int(receipt["gasUsed"], 16) == told["gasUsed"]


async def test_a_contract_of_another_network_name_is_told_from_ours(
    devnet: Devnet, tmp_path: Path
) -> None:
    """It says so when it deploys, and `check` does afterwards."""
    variables = settings(devnet, tmp_path)
    ended = await facilitator("deploy", variables, "--network-name", "elsewhere", "--json")
    assert ended.code == 0
    assert "takes those signed for 'elsewhere'" in ended.errors
    checked = await facilitator("check", {**variables, **json.loads(ended.output)["environment"]})
    assert checked.code == 1
    assert [line for line in checked.output.splitlines() if line.startswith("FAIL")] == [
        "FAIL jeju hashPayment: differs: another domain or network name (network name 'jeju')"
    ]


async def test_a_network_that_is_not_the_primary_one_gets_a_variable_of_its_own(
    tmp_path: Path,
) -> None:
    options = DevnetOptions(port=0, block_time=None, chain_id=84532, network_name="base-sepolia")
    async with Devnet.start(options) as devnet:
        variables = settings(devnet, tmp_path, X402_PRIMARY_NETWORK="jeju")
        told = await deployed(variables, "--network", "base-sepolia")
        assert told["chainId"] == 84532
        assert told["environment"] == {"X402_FACILITATOR_ADDRESS_BASE_SEPOLIA": told["contract"]}
        ready = {**variables, **told["environment"]}
        checked = await facilitator("check", ready, "--network", "base-sepolia")
        assert checked.code == 0, checked.output


async def test_nothing_is_sent_to_a_mainnet_without_yes(tmp_path: Path) -> None:
    options = DevnetOptions(port=0, block_time=None, chain_id=8453, network_name="base")
    async with Devnet.start(options) as devnet:
        variables = settings(devnet, tmp_path)
        before = await sent(devnet)
        refused = await facilitator("deploy", variables)
        assert (refused.code, refused.output) == (2, "")
        assert "base is a mainnet: this would spend up to 0." in refused.error
        assert refused.error.endswith("add --yes to do it")
        assert await sent(devnet) == before
        told = await deployed(variables, "--yes")
        assert await sent(devnet) == before + 1
    assert told["network"] == "base"


async def test_what_the_chain_refuses_is_one_line_and_exit_1(
    devnet: Devnet, tmp_path: Path
) -> None:
    good = settings(devnet, tmp_path)

    async def refused(variables: dict[str, str], *options: str) -> str:
        ended = await called("deploy", variables, *options)
        assert (ended.code, ended.output) == (1, "")
        return ended.error

    before = await sent(devnet)
    poor = {**good, "FACILITATOR_PRIVATE_KEY": "0x" + "77" * 32}
    ended = await facilitator("deploy", poor)
    assert (ended.code, ended.output) == (1, "")
    assert ended.error == await refused(poor)
    assert "has 0 ETH on jeju, the gas may cost 0." in ended.error
    assert "not a token" in await refused(good, "--token", NOBODY)
    assert "jeju#0" in await refused({**good, "JEJU_RPC_URL": "http://127.0.0.1:1/secret"})
    # more tokens than a transaction may carry: 25,000 gas each
    many = [text for i in range(200) for text in ("--token", "0x" + f"{0xBEEF00 + i:040x}")]
    for address in many[1::2]:
        await devnet.rpc("anvil_setCode", address, "0x00")
    assert "the chain refuses the transaction" in await refused(good, *many)
    async with fault_proxy(devnet.url) as proxy:
        through = {**good, "JEJU_RPC_URL": proxy.url}
        proxy.faults["eth_chainId"] = answer_with("0x1")
        assert "is on chain id 1, expected 420691" in await refused(through)
        proxy.faults["eth_chainId"] = answer_with(hex(420691))
        proxy.faults["eth_sendRawTransaction"] = refuse_with(-32000, "insufficient funds for gas")
        assert "refused the transaction: insufficient funds" in await refused(through)
        base_fee = {"baseFeePerGas": [hex(600 * 10**9)] * 2, "reward": [["0x1"]]}
        proxy.faults["eth_feeHistory"] = answer_with(base_fee)
        assert "600 gwei, more than MAX_FEE_PER_GAS_GWEI allows (500)" in await refused(through)
    assert await sent(devnet) == before


async def test_a_wrong_setting_is_one_line_and_exit_2(devnet: Devnet, tmp_path: Path) -> None:
    good = settings(devnet, tmp_path)

    async def refused(variables: dict[str, str], *options: str) -> str:
        ended = await called("deploy", variables, *options)
        assert (ended.code, ended.output) == (2, "")
        return ended.error

    keyless = {k: v for k, v in good.items() if k != "FACILITATOR_PRIVATE_KEY"}
    ended = await facilitator("deploy", keyless)
    assert (ended.code, ended.output) == (2, "")
    assert ended.error == await refused(keyless)
    assert "FACILITATOR_PRIVATE_KEY" in ended.error
    retired = tmp_path / "keys"
    retired.write_text(good["FACILITATOR_PRIVATE_KEY"] + " retire\n")
    alone = {**keyless, "FACILITATOR_PRIVATE_KEY_FILE": str(retired)}
    assert "no key to deploy with" in await refused(alone)
    unpaid = {k: v for k, v in good.items() if k != "FEE_RECIPIENT_ADDRESS"}
    assert "--fee-recipient" in await refused(unpaid)
    assert "JEJU_TESTNET_USDC_ADDRESS" in await refused(good, "--network", "jeju-testnet")
    production = {**good, "FACILITATOR_ENV": "production"}
    assert "base is not served" in await refused(production, "--network", "base")
    assert "FACILITATOR_PORT" in await refused({**good, "FACILITATOR_PORT": "x"})
    assert "argument --owner: must be an address" in await refused(good, "--owner", "0x00")


async def test_a_block_that_does_not_come_is_waited_for_so_long_and_no_longer(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The transaction is not lost: what was foretold of it comes true, and until then nothing is
    sent after it.
    """
    variables = settings(devnet, tmp_path)
    await devnet.rpc("evm_setAutomine", False)
    ended = await facilitator("deploy", variables, "--timeout", "1")
    assert (ended.code, ended.output) == (1, "")
    assert "not mined within 1 s: 0x" in ended.error
    transaction = ended.error.partition("1 s: ")[2][:66]
    contract = ended.error.partition("the contract is at ")[2][:42]
    assert "X402_FACILITATOR_ADDRESS" in ended.error
    assert f"transaction {transaction}" in ended.errors

    again = await facilitator("deploy", variables)
    assert again.code == 1
    assert "has 1 transactions waiting" in again.error

    await devnet.rpc("anvil_mine", "0x1")
    receipt: Any = await devnet.rpc("eth_getTransactionReceipt", transaction)
    assert (receipt["status"], to_checksum_address(receipt["contractAddress"])) == (
        "0x1",
        contract,
    )
    checked = await facilitator("check", {**variables, "X402_FACILITATOR_ADDRESS": contract})
    assert checked.code == 0, checked.output


async def test_a_lost_reply_is_waited_for_and_sends_nothing_twice(
    devnet: Devnet, tmp_path: Path
) -> None:
    before = await sent(devnet)
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = lose_reply
        told = await deployed(settings(devnet, tmp_path, JEJU_RPC_URL=proxy.url))
    assert await sent(devnet) == before + 1
    assert unhex(told["contract"])


async def test_a_deployment_that_reverts_is_no_contract(devnet: Devnet, tmp_path: Path) -> None:
    """The estimate was good, and the block is another matter: here its gas runs out."""
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_estimateGas"] = answer_with(hex(600_000))
        variables = settings(devnet, tmp_path, JEJU_RPC_URL=proxy.url)
        ended = await facilitator("deploy", variables)
    assert (ended.code, ended.output) == (1, "")
    assert "was mined and reverted" in ended.error


async def test_a_node_that_shows_no_code_or_another_hash_is_not_believed(
    devnet: Devnet, tmp_path: Path
) -> None:

    async def no_new_code(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        known = unhex(call["params"][0]) == devnet.usdc
        return answer if known else {**answer, "result": "0x"}

    async with fault_proxy(devnet.url) as proxy:
        variables = settings(devnet, tmp_path, JEJU_RPC_URL=proxy.url)
        proxy.faults["eth_getCode"] = no_new_code
        ended = await facilitator("deploy", variables, "--timeout", "1")
        assert (ended.code, ended.output) == (1, "")
        assert "the node shows no code at 0x" in ended.error
        proxy.faults.pop("eth_getCode")
        proxy.faults["eth_call"] = answer_with("0x" + "11" * 32)
        ended = await facilitator("deploy", variables)
        assert (ended.code, ended.output) == (1, "")
        assert "does not hash payments as we do" in ended.error


async def test_the_key_shows_nowhere(devnet: Devnet, tmp_path: Path) -> None:
    variables = settings(devnet, tmp_path)
    key = variables["FACILITATOR_PRIVATE_KEY"].removeprefix("0x")

    def clean(ended: Ended) -> bool:
        return key not in (ended.output + ended.errors).lower()

    good, misplaced, poor = await asyncio.gather(
        facilitator("deploy", variables),
        facilitator("deploy", variables, "--owner", "0x" + key),
        facilitator("deploy", {**variables, "FEE_RECIPIENT_ADDRESS": "0x" + key}),
    )
    assert (good.code, misplaced.code, poor.code) == (0, 2, 2)
    assert clean(good)
    assert clean(misplaced)
    assert clean(poor)


async def test_the_owner_can_run_what_was_deployed(devnet: Devnet, tmp_path: Path) -> None:
    told = await deployed(
        settings(devnet, tmp_path), "--owner", "0x" + devnet.deployer.address.hex()
    )
    contract = unhex(told["contract"])
    await devnet.transact(devnet.deployer, contract, calldata("setProtocolFee(uint256)", 75))
    assert await read(devnet, contract, "protocolFeeBps()") == 75
