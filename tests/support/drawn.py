"""Strategies for hypothesis: payments of every shape that can be signed."""

from hypothesis import strategies as st

from facilitator.ethereum.abi import MAX_UINT256
from tests.support import rows

addresses = st.binary(min_size=20, max_size=20)
uints = st.integers(0, MAX_UINT256) | st.sampled_from([0, 1, 2**255, MAX_UINT256])
texts = st.text(max_size=40)
payments = st.builds(
    rows.payment,
    chain_id=st.integers(1, 2**63),
    contract=addresses,
    scheme=texts,
    network=texts,
    asset=addresses,
    pay_to=addresses,
    amount=uints,
    resource=texts,
    authorization_nonce=texts,
    timestamp=uints,
)
authorizations = st.builds(
    rows.exact,
    chain_id=st.integers(1, 2**63),
    payer=addresses,
    asset=addresses,
    pay_to=addresses,
    amount=uints,
    signature=st.binary(min_size=65, max_size=65),
    authorization_nonce=st.binary(min_size=32, max_size=32),
    valid_after=uints,
    valid_before=uints,
    domain_name=texts,
    domain_version=texts,
)
