"""Every way into a process: what wires it, and the command line."""
