// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title OddToken
/// @notice Moves as a token should, and says of itself whatever it was told to say.
contract OddToken is ERC20 {
    bytes private symbolAnswer;
    bytes private decimalsAnswer;
    uint256 private excess;

    constructor() ERC20("Odd", "") {}

    /// @param symbolAnswer_ what symbol() returns, as it is; if empty, it reverts
    /// @param decimalsAnswer_ the same of decimals()
    /// @param excess_ zero bytes that follow the symbol's answer
    function describe(bytes calldata symbolAnswer_, bytes calldata decimalsAnswer_, uint256 excess_)
        external
    {
        (symbolAnswer, decimalsAnswer, excess) = (symbolAnswer_, decimalsAnswer_, excess_);
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function symbol() public view override returns (string memory) {
        answer(symbolAnswer, excess);
    }

    function decimals() public view override returns (uint8) {
        answer(decimalsAnswer, 0);
    }

    function answer(bytes memory content, uint256 more) private pure {
        require(content.length > 0, "says nothing");
        // Nothing else was put into memory after it: what follows is zero.
        assembly {
            return(add(content, 32), add(mload(content), more))
        }
    }
}
