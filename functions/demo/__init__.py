"""The demo: real writes in both directions on this machine, every one of them followed, and a verdict."""
