"""Everything that touches a tensor: batches, models, SDEs, objectives, engine, checkpoints, export, embedding."""
