"""A user's script that serves a box; run by the adapter of BetterBox."""

from betterbox import Box, serve_box


@serve_box(8090)
class NoOp(Box):
    def noop(self, x: object) -> object:
        return x
