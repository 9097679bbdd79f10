"""Who takes part in the story that `make demo` tells, and what they can do: pay, ask, look at the
chain.
"""

import secrets
import time
from typing import Any

import aiohttp

from facilitator.commands.devnet import Account, Devnet
from facilitator.commands.payer import sign_authorization, sign_payment
from facilitator.config.networks import NETWORKS
from facilitator.ethereum.abi import address_word, selector
from facilitator.ethereum.secp256k1 import Signer

PRICE = 1_000_000  # atomic units of USDC: 1 USDC
LIFETIME = 300  # seconds that an authorization of the token holds

Reply = dict[str, Any]


class DemoFailed(Exception):
    """A step did not hold; the text says which and how."""


def expect(held: object, otherwise: str) -> None:
    """End the demo unless the step held."""
    if not held:
        raise DemoFailed(otherwise)


def say(text: str = "") -> None:
    """A line of the story."""
    print(text, flush=True)


class Cast:
    """Who takes part: three payers of whom only the first lets the contract take money, the seller,
    and who receives the fees. `session` speaks to the service.
    """

    def __init__(self, devnet: Devnet, session: aiohttp.ClientSession) -> None:
        self.devnet = devnet
        self.session = session
        self.second_payer = devnet.accounts[4]
        self.third_payer = devnet.accounts[6]
        self.token = NETWORKS[devnet.network_name].usdc_at(devnet.usdc)
        self.people = {
            "payer": devnet.payer,
            "2nd payer": self.second_payer,
            "3rd payer": self.third_payer,
            "seller": devnet.seller,
            "fees": devnet.fee_recipient,
        }

    def payment(self, signer: Account) -> Reply:
        """A header that `signer` signs: PRICE to the seller."""
        devnet = self.devnet
        return sign_payment(
            Signer(signer.key),
            chain_id=devnet.chain_id,
            contract=devnet.contract,
            network=devnet.network_name,
            asset=devnet.usdc,
            pay_to=devnet.seller.address,
            amount=PRICE,
            resource="/api/report",
            timestamp=int(time.time()),
        )

    def authorization(self, signer: Account, to: bytes) -> dict[str, str]:
        """An authorization of the token that `signer` signs: PRICE to `to`."""
        return sign_authorization(
            *(Signer(signer.key), self.token, self.devnet.chain_id, to, PRICE),
            *(0, int(time.time()) + LIFETIME, secrets.token_bytes(32)),
        )

    async def post(self, path: str, body: Reply) -> Reply:
        """The service's reply, which is a 200."""
        async with self.session.post(path, json=body) as response:
            reply: Reply = await response.json()
            expect(response.status == 200, f"POST {path}: {response.status} {reply}")
            return reply

    async def balances(self) -> dict[str, int]:
        """Atomic units of USDC of everybody, from the chain."""
        return {name: await self._usdc(account.address) for name, account in self.people.items()}

    async def _usdc(self, address: bytes) -> int:
        return await self._read(selector("balanceOf(address)") + address_word(address))

    async def allowance(self, owner: Account) -> int:
        """Atomic units that the contract may take from `owner`."""
        arguments = address_word(owner.address) + address_word(self.devnet.contract)
        return await self._read(selector("allowance(address,address)") + arguments)

    async def sent(self, account: Account) -> int:
        """How many transactions of the account are mined or wait to be."""
        address = "0x" + account.address.hex()
        return int(str(await self.devnet.rpc("eth_getTransactionCount", address, "pending")), 16)

    async def _read(self, call: bytes) -> int:
        query = {"to": "0x" + self.devnet.usdc.hex(), "data": "0x" + call.hex()}
        return int(str(await self.devnet.rpc("eth_call", query, "latest")), 16)
