"""Keeps an account in a SQLite file, so that it survives the process: every change is in it before it is answered.

    storage/file      opens the file for one process alone, and says what is wrong with it
    storage/journal   writes changes: one SQLite transaction per change of the account
    storage/restore   reads the whole account when the server starts; from then on it is served from memory

What a crash leaves behind. The write-ahead log gets each change by `write` before its answer is sent, so whatever ends
the process, `kill -9` included, every acknowledged change is in the file. The disk is waited for at checkpoints only
(`synchronous=NORMAL`): when the machine loses its power or its kernel, the file stays a sound database, as of some
moment after the last checkpoint; changes since then, acknowledged ones too, may be missing, always the newest. Waiting
for the disk in every commit (`FULL`) would keep them and hold every write to the disk's latency, which is not worth it
for a server of tests and of one machine.
"""
