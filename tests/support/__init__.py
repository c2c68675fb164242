"""Support of several test modules: molecules, datasets, servers, jobs, and a run of all commands."""
