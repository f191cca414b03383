# client.py
from betterbox import RemoteBox, use_box

@use_box(8090)
class OtherBox(RemoteBox):
    def __init__(self):
        print(f'I m {self.name().any()}')
