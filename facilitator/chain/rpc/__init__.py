"""JSON-RPC 2.0 over HTTP for one chain, through several endpoints of which none is trusted alone.

`client` queues calls and takes them to the endpoints in turn, `calls` writes them and reads their
answers, `endpoint` is the HTTP of one of them, `inspection` decides which of them may be asked,
`health` is what is known of one.
"""

from facilitator.chain.rpc.client import RPC
from facilitator.chain.rpc.endpoint import RETRY_AFTER_LIMIT, Endpoint
from facilitator.chain.rpc.faults import FaultKind, RPCError, TransportError
from facilitator.chain.rpc.health import Standing

__all__ = [
    "RETRY_AFTER_LIMIT",
    "RPC",
    "Endpoint",
    "FaultKind",
    "RPCError",
    "Standing",
    "TransportError",
]
