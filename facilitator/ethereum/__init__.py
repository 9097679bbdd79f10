"""The few pieces of Ethereum that a facilitator needs, as pure functions of bytes and integers.

Addresses are 20 bytes, hashes 32 bytes, amounts and fees integers in the smallest unit (wei or the
token's atomic unit). Text appears only in `addresses`, which parses and prints it.
"""
