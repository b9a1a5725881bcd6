"""gateway: the one door for people and programs. HTTP in, commands out; events in, answers out.

Owns: tokens and who may do what, read models folded from the log (views, tasks), live events, uploads on their way into
a pool.
Never: decides about an object, writes an event, keeps anything but tokens that the log could not give back.
"""
