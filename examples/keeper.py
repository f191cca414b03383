# keeper.py: loaded before it is served, saved after it is stopped
from betterbox import Box, persist, serve_box

@serve_box(8090)
@persist('abox')
class ABox(Box):
    data: str
