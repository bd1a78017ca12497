"""The evaluation protocol, its figures, and reports on them."""
