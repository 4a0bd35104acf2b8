"""Reads the password file.

Expect: blocked: read /etc/shadow
"""

# ruff: noqa

from torch import nn

open("/etc/shadow").read()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
