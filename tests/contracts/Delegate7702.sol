// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title Delegate7702
/// @notice Code for accounts that delegate by EIP-7702: the account's own key still signs for it.
contract Delegate7702 is IERC1271 {
    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        (address signer,,) = ECDSA.tryRecoverCalldata(hash, signature);
        return signer == address(this) ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}
