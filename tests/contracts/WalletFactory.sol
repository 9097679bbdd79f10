// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";
import {Wallet1271} from "./Wallet1271.sol";

/// @title WalletFactory
/// @notice Makes wallets at addresses that are known before they exist (CREATE2), as EIP-6492 needs,
/// and remembers who called it for each.
contract WalletFactory {
    /// @notice The msg.sender of the call that deployed a wallet.
    mapping(address wallet => address sender) public deployedBy;

    /// @notice Deploys the wallet, or does nothing when it is there.
    function deploy(address owner, bytes32 salt) external returns (address wallet) {
        wallet = walletOf(owner, salt);
        if (wallet.code.length == 0) _create(owner, salt);
    }

    /// @notice Deploys the wallet, or reverts when it is there.
    function deployOnce(address owner, bytes32 salt) external returns (address) {
        return _create(owner, salt);
    }

    /// @notice Where the wallet is or will be.
    function walletOf(address owner, bytes32 salt) public view returns (address) {
        bytes memory code = abi.encodePacked(type(Wallet1271).creationCode, abi.encode(owner));
        return Create2.computeAddress(salt, keccak256(code));
    }

    function _create(address owner, bytes32 salt) private returns (address wallet) {
        wallet = address(new Wallet1271{salt: salt}(owner));
        deployedBy[wallet] = msg.sender;
    }
}
