"""What both servers share: from a request to its outcome, the request queue, metrics, logs, the click log."""
