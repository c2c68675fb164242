"""The processes of a run: process group, DeepSpeed, signals and watchdog."""
