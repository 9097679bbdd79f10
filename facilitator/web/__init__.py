"""The HTTP service. The only room with Starlette and Hypercorn, and the only wiring."""
