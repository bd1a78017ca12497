"""The training loop and all that one step of it needs."""
