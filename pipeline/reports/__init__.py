"""What people see of a dataset: its card, a screen of text, an estimate, progress."""
