"""Hides its command in base64.

Expect: blocked: run a shell command
"""

# ruff: noqa
import base64

from torch import nn

exec(base64.b64decode(b"aW1wb3J0IG9zOyBvcy5zeXN0ZW0oJ3RvdWNoIC90bXAvdG9yY2hzdG9uZS1ob3N0aWxlJyk="))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)
