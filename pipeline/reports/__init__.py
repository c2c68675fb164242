"""Reports on datasets for people: card, summary on the terminal, estimate of the cost, progress."""
