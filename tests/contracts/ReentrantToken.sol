// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title ReentrantToken
/// @notice Calls back into whatever it was armed against in the middle of a transfer, once, and
/// keeps the answer. Moves anybody's money without asking for a signature.
contract ReentrantToken is ERC20 {
    address public target;
    bytes public attack;
    bool public attempted;
    bool public succeeded;
    bytes public answer;

    constructor() ERC20("Reentrant", "RE") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function arm(address newTarget, bytes calldata newAttack) external {
        target = newTarget;
        attack = newAttack;
    }

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256,
        uint256,
        bytes32,
        bytes calldata
    ) external {
        _transfer(from, to, value);
    }

    function _update(address from, address to, uint256 value) internal override {
        if (target != address(0) && !attempted) {
            attempted = true;
            (succeeded, answer) = target.call(attack);
        }
        super._update(from, to, value);
    }
}
