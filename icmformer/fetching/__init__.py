"""Fetching files over http(s) under rules against foreign addresses: for the Label Studio backend and for training."""
