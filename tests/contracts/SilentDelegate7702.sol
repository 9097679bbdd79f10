// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title SilentDelegate7702
/// @notice Code for accounts that delegate by EIP-7702 which knows nothing of EIP-1271: the token
/// asks it in vain, and the account's key no longer pays. It takes every call and answers nothing.
contract SilentDelegate7702 {
    fallback() external payable {}

    receive() external payable {}
}
