# relay.py: a client that also serves itself
from betterbox import RemoteBox, serve_box, use_box

@serve_box(9090)
@use_box(8090)
class OtherBox(RemoteBox):
    def __init__(self):
        print(f'I m {self.name().any()}')
