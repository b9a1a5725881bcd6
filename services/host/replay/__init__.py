"""`asvctl replay`: what a service decided, decided again by the code that is here; step by step where that is wanted."""
