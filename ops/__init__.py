"""The operator's door: the `cnop` command line, and the local process that mounts both APIs."""
