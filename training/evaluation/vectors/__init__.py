"""What frozen vectors are worth: repeated cross-validation of simple heads, and paired statistics."""
