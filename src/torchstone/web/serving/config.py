"""What a server may be told: every limit with its unit. A token is no field: it would end up in logs."""

from __future__ import annotations

import ipaddress

from pydantic import BaseModel, ConfigDict, Field

TOKEN_VARIABLE = "TORCHSTONE_SERVE_TOKEN"
PREFERRED = ("onnx", "pt2", "safetensors")
"""Formats to serve, the first that a bundle has."""


class ServeConfig(BaseModel):
    """Limits of one server; a request beyond one is refused by name, never cut to fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; another than loopback needs a token")
    port: int = Field(8000, ge=0, le=65_535, description="0: any that is free")
    format: str | None = Field(
        None, description="format of the bundle; default: onnx, pt2, safetensors, in that order"
    )
    device: str = Field("cpu", description="cpu, cuda, cuda:1")
    name: str | None = Field(None, description="name of the model in answers; default: that of the folder")
    max_batch: int = Field(8, ge=1, le=1024, description="inputs that go through the model together")
    batch_window_ms: float = Field(
        2.0, ge=0, le=1000, description="milliseconds that the first input of a batch waits for others"
    )
    max_concurrent: int = Field(
        64, ge=1, le=100_000, description="requests that may be under way; beyond, 429"
    )
    max_inputs: int = Field(32, ge=1, le=10_000, description="inputs of one request; beyond, 422")
    max_body_bytes: int = Field(4 << 20, ge=64, description="bytes of one request; beyond, 413")
    max_length: int | None = Field(
        None, ge=1, description="tokens of one input; beyond, 422; default: what the model takes"
    )
    max_new_tokens: int = Field(1024, ge=1, description="tokens that one input may ask for; beyond, 422")
    timeout_s: float = Field(30.0, gt=0, description="seconds until a request is given up with 503")
    drain_s: float = Field(
        30.0, ge=0, description="seconds that requests under way have to end after SIGTERM"
    )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
