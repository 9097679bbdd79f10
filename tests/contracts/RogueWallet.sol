// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

/// @title RogueWallet
/// @notice A payer with code that answers EIP-1271's question in a way that no wallet should. Its
/// answer has nothing to do with who signed.
contract RogueWallet {
    enum Behaviour {
        BurnGas,
        Revert,
        RevertHuge,
        WrongMagic,
        DirtyMagic,
        ShortAnswer,
        HugeAnswer
    }

    uint256 private constant HUGE = 1_000_000; // bytes

    Behaviour public immutable behaviour;

    constructor(Behaviour chosen) {
        behaviour = chosen;
    }

    // solhint-disable no-inline-assembly
    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        bytes4 magic = this.isValidSignature.selector;
        if (behaviour == Behaviour.BurnGas) {
            assembly {
                for {} 1 {} {}
            }
        }
        if (behaviour == Behaviour.Revert) revert("RogueWallet: no");
        if (behaviour == Behaviour.RevertHuge) {
            assembly {
                revert(0, HUGE)
            }
        }
        if (behaviour == Behaviour.WrongMagic) return ~magic;
        // The magic and then something: a bytes4 is followed by zeros.
        if (behaviour == Behaviour.DirtyMagic) {
            assembly {
                mstore(0, or(magic, 1))
                return(0, 32)
            }
        }
        // The magic is there, the word around it is not.
        if (behaviour == Behaviour.ShortAnswer) {
            assembly {
                mstore(0, magic)
                return(0, 31)
            }
        }
        assembly {
            mstore(0, magic)
            return(0, HUGE)
        }
    }
}
