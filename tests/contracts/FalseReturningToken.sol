// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title FalseReturningToken
/// @notice Answers every transfer with false instead of reverting, and moves nothing.
contract FalseReturningToken {
    mapping(address account => uint256) public balanceOf;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    /// @dev The one transfer that works: what comes after it is what fails.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256,
        uint256,
        bytes32,
        bytes calldata
    ) external {
        balanceOf[from] -= value;
        balanceOf[to] += value;
    }

    function transfer(address, uint256) external pure returns (bool) {
        return false;
    }

    function transferFrom(address, address, uint256) external pure returns (bool) {
        return false;
    }
}
