# server.py
from betterbox import Box, serve_box

@serve_box(8090)
class ABox(Box):
    def name(self) -> str:
        return 'MyBox'
