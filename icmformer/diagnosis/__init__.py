"""Checks of an installation and of what it works with: each says what is, and where that is wrong, what to do."""
