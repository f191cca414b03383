"""All boxes at a port at once. Start ``examples/server.py`` in one terminal or more, then this in another."""

from betterbox import GroupBox

boxes = GroupBox.connect(8090)
print(boxes.name().all())
