// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// @title SplitSignatureToken
/// @notice EIP-3009 as it was first deployed, honest: the signature comes as v, r and s only, and
/// whoever has code cannot pay with it. Anybody may mint.
contract SplitSignatureToken is ERC20, EIP712 {
    bytes32 public constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    uint8 private immutable _decimals;

    /// @notice Whether an authorizer's nonce has been used.
    mapping(address authorizer => mapping(bytes32 nonce => bool)) public authorizationState;

    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);

    constructor(string memory tokenName, string memory tokenVersion, uint8 tokenDecimals)
        ERC20(tokenName, "TEST")
        EIP712(tokenName, tokenVersion)
    {
        _decimals = tokenDecimals;
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        bytes memory signature = abi.encodePacked(r, s, v);
        _transferByAuthorization(from, to, value, validAfter, validBefore, nonce, signature);
    }

    // solhint-disable-next-line func-name-mixedcase
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function version() external view returns (string memory) {
        return _EIP712Version();
    }

    function decimals() public view override returns (uint8) {
        return _decimals;
    }

    function _transferByAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) internal {
        require(block.timestamp > validAfter, "authorization is not yet valid");
        require(block.timestamp < validBefore, "authorization is expired");
        require(!authorizationState[from][nonce], "authorization is used");
        bytes32 structHash = keccak256(
            abi.encode(
                TRANSFER_WITH_AUTHORIZATION_TYPEHASH, from, to, value, validAfter, validBefore, nonce
            )
        );
        require(_isSignedBy(from, _hashTypedDataV4(structHash), signature), "invalid signature");
        _pay(from, to, value, nonce);
    }

    /// @dev What happens once an authorization is found good; where a token may go wrong.
    function _pay(address from, address to, uint256 value, bytes32 nonce) internal virtual {
        _markUsed(from, nonce);
        _transfer(from, to, value);
    }

    function _markUsed(address authorizer, bytes32 nonce) internal {
        authorizationState[authorizer][nonce] = true;
        emit AuthorizationUsed(authorizer, nonce);
    }

    function _isSignedBy(address signer, bytes32 hash, bytes memory signature)
        internal
        view
        virtual
        returns (bool)
    {
        (address recovered, ECDSA.RecoverError failure,) = ECDSA.tryRecover(hash, signature);
        return failure == ECDSA.RecoverError.NoError && recovered == signer;
    }
}
