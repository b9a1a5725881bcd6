"""What would become of a recorded cluster if something were done to it: `python -m libs.world.whatif`, docs/what-if.md.

    variant (what is done) ──acts──▶ trial (one world, one chance) ──×tries──▶ answer (what is common to them) ──say──▶ words
"""
