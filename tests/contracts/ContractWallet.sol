// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title ContractWallet
/// @notice An account with code: a signature is its own when its keeper made it (EIP-1271). With
/// another keeper it refuses what its own address's key would sign.
contract ContractWallet is IERC1271 {
    address public immutable keeper;

    constructor(address initialKeeper) {
        keeper = initialKeeper;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        (address signer,,) = ECDSA.tryRecoverCalldata(hash, signature);
        return signer == keeper ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}
