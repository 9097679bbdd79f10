// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {SignatureChecker} from
    "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {SplitSignatureToken} from "./SplitSignatureToken.sol";

/// @title AuthorizationToken
/// @notice An honest token with EIP-3009 in both forms, and payers with code, under any name,
/// version and number of decimals: what a service is told of beside USDC.
contract AuthorizationToken is SplitSignatureToken {
    constructor(string memory tokenName, string memory tokenVersion, uint8 tokenDecimals)
        SplitSignatureToken(tokenName, tokenVersion, tokenDecimals)
    {}

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external {
        _transferByAuthorization(from, to, value, validAfter, validBefore, nonce, signature);
    }

    function _isSignedBy(address signer, bytes32 hash, bytes memory signature)
        internal
        view
        override
        returns (bool)
    {
        return SignatureChecker.isValidSignatureNow(signer, hash, signature);
    }
}
