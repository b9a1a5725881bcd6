"""io: the devices of each VM and the images they stand on.

Owns: names, serials, MACs and PCI slots of devices, which generation may write, the life of images. Never does: touch a file
(the node agents), start a VM (compute).
"""
