"""What a release takes beside the code: docs/releasing.md goes through it. Needs Python's own library and git alone."""
