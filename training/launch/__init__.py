"""Jobs on many hosts: the supervisor and its agents."""
