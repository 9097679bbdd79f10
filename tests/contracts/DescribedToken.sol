// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title DescribedToken
/// @notice A token that only describes itself, as far as it is told to: what `tells` leaves out is
/// as missing as in a contract without that function.
contract DescribedToken {
    uint256 public constant SEPARATOR = 1;
    uint256 public constant DOMAIN = 2;
    uint256 public constant NAMES = 4;
    uint256 public constant AUTHORIZATIONS = 8;
    uint256 public constant DECIMALS = 16;

    uint256 private immutable tells;
    uint8 private immutable ownDecimals;
    string private ownName;
    string private ownVersion;

    modifier onlyIf(uint256 told) {
        require(tells & told != 0);
        _;
    }

    constructor(string memory name_, string memory version_, uint8 decimals_, uint256 tells_) {
        ownName = name_;
        ownVersion = version_;
        ownDecimals = decimals_;
        tells = tells_;
    }

    // solhint-disable-next-line func-name-mixedcase
    function DOMAIN_SEPARATOR() external view onlyIf(SEPARATOR) returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256(bytes(ownName)),
                keccak256(bytes(ownVersion)),
                block.chainid,
                address(this)
            )
        );
    }

    function eip712Domain()
        external
        view
        onlyIf(DOMAIN)
        returns (
            bytes1,
            string memory,
            string memory,
            uint256,
            address,
            bytes32,
            uint256[] memory
        )
    {
        return
            (hex"0f", ownName, ownVersion, block.chainid, address(this), 0, new uint256[](0));
    }

    function name() external view onlyIf(NAMES) returns (string memory) {
        return ownName;
    }

    function version() external view onlyIf(NAMES) returns (string memory) {
        return ownVersion;
    }

    function authorizationState(address, bytes32)
        external
        view
        onlyIf(AUTHORIZATIONS)
        returns (bool)
    {
        return false;
    }

    function decimals() external view onlyIf(DECIMALS) returns (uint8) {
        return ownDecimals;
    }
}
