"""What a trained encoder is for: export, embedding, generation."""
