"""What holds for all tests."""

from hypothesis import settings

# No test is timed: what takes long on a busy machine is not wrong. A failure prints what repeats it.
settings.register_profile("asv", deadline=None, print_blob=True)
settings.load_profile("asv")
