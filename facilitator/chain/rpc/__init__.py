"""JSON-RPC 2.0 over HTTP for one chain, through several endpoints of which none is trusted alone.

`client` queues calls and takes them to the endpoints in turn, `wire` writes them, reads their
answers and names their faults, `endpoint` is the HTTP of one of them, `inspection` decides which of
them may be asked, `health` is what is known of one.
"""

from facilitator.chain.rpc.client import RPC
from facilitator.chain.rpc.endpoint import RETRY_AFTER_LIMIT, Endpoint
from facilitator.chain.rpc.health import Standing
from facilitator.chain.rpc.wire import FaultKind, RPCError, TransportError

__all__ = [
    "RETRY_AFTER_LIMIT",
    "RPC",
    "Endpoint",
    "FaultKind",
    "RPCError",
    "Standing",
    "TransportError",
]
