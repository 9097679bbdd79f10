// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {AuthorizationToken} from "./AuthorizationToken.sol";

/// @dev Says Transfer for whoever asks.
contract Speaker {
    event Transfer(address indexed from, address indexed to, uint256 value);

    function say(address from, address to, uint256 value) external {
        emit Transfer(from, to, value);
    }
}

/// @title FaultyToken
/// @notice Checks an authorization as an honest token does, and then does one thing wrong. All but
/// the refusal return as if the payment had been made.
contract FaultyToken is AuthorizationToken {
    enum Fault {
        NoTransfer, // AuthorizationUsed, and nothing moves
        Silence, // nothing at all: no event, and the nonce stays unused
        Fee, // one percent stays with the token
        WrongRecipient, // all of it goes to somebody else
        TransferFirst, // pays, but tells of the transfer before it tells of the authorization
        ForeignEvent, // nothing moves, and another contract says Transfer
        Refusal // reverts, with words that anybody may set
    }

    address public constant SOMEBODY_ELSE = address(0xdead);

    Fault public immutable fault;
    Speaker public immutable speaker = new Speaker();
    string public refusal = "Blacklistable: account is blacklisted";

    constructor(
        string memory tokenName,
        string memory tokenVersion,
        uint8 tokenDecimals,
        Fault chosen
    ) AuthorizationToken(tokenName, tokenVersion, tokenDecimals) {
        fault = chosen;
    }

    /// @notice What the token reverts with; without words it pays.
    function setRefusal(string calldata words) external {
        refusal = words;
    }

    function _pay(address from, address to, uint256 value, bytes32 nonce) internal override {
        if (fault == Fault.Silence) return;
        if (fault == Fault.Refusal) require(bytes(refusal).length == 0, refusal);
        if (fault == Fault.TransferFirst) _transfer(from, to, value);
        _markUsed(from, nonce);
        if (fault == Fault.Fee) {
            _transfer(from, to, value - value / 100);
            _transfer(from, address(this), value / 100);
        }
        if (fault == Fault.WrongRecipient) _transfer(from, SOMEBODY_ELSE, value);
        if (fault == Fault.ForeignEvent) speaker.say(from, to, value);
        if (fault == Fault.Refusal) _transfer(from, to, value);
    }
}
