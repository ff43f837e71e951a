"""Laboratory: the same training in TRL on several processes, in verl's words, and with tools between turns."""
