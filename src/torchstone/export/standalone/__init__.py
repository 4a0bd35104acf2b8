"""Programs that go into every bundle and run there alone: they import nothing of torchstone.

    runtimes.py   open a format: arrays in, array out
    verify.py     hash every file, run every golden input, compare
    decoding.py   the next token, and when to stop
    inference.py  text, images or ids in, an answer out

They are ordinary modules here, so torchstone verifies with the same code. Needed are numpy and the runtime
of a format; each other import stands where it is used.
"""
