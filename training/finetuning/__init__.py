"""Fine-tuning on a team's annotations: reading them, splitting them, telling the gain."""
