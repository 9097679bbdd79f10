"""Everything goes wrong at once, and afterwards the chain's own logs say whether a promise broke:
`python -m tests.chaos --help`.
"""
