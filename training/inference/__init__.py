"""Uses of a trained model: export, embedding and generation of molecules."""
