// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title Wallet1271
/// @notice A smart wallet that its owner's key signs for (EIP-1271), in two forms: the 65 bytes of
/// an ECDSA signature, or abi.encode(owner, signature), which only `bytes` can carry. Anything else
/// makes it revert. What it accepted it refuses as soon as the owner is another.
contract Wallet1271 is IERC1271 {
    address public owner;

    constructor(address initialOwner) {
        owner = initialOwner;
    }

    function changeOwner(address newOwner) external {
        require(msg.sender == owner, "Wallet1271: caller is not the owner");
        owner = newOwner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        address claimed = owner;
        bytes memory inner = signature;
        if (signature.length != 65) (claimed, inner) = abi.decode(signature, (address, bytes));
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecover(hash, inner);
        bool valid = failure == ECDSA.RecoverError.NoError && signer == owner && claimed == owner;
        return valid ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}
