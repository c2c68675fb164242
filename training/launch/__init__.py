"""Jobs on many hosts: the supervisor, and its agent on each host."""
