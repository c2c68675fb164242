"""What several tests share: molecules, datasets, servers, jobs, and the walk over the whole road."""
