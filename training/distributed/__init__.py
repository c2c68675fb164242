"""The processes of a run: how they join, stop and watch each other."""
