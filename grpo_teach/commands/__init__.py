"""Laboratory: the command line, one file a family of commands; flags are made from the checked dataclasses."""
