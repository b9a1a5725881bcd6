"""Fence devices: what cuts a node's power and says whether it is off.

model     streams `fence-NODE`: what a device is, whether it is believed, what is asked of it (pure)
judge     when a node's power is known to be off (pure)
device    what every kind can do; kinds: redfish, ipmi, docker, simulated
executor  asks the devices, off the event loop's critical path, and tells what they answered
"""
