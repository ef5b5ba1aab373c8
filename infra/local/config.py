"""What may be chosen from outside for a local stack.

With `infra.settings` (and the cache's folder) all that the local stack reads from the environment. A field that is left empty means: choose for me.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class LocalSettings(BaseSettings):
    """What `cnop up` may be told by `CNOP_*` variables. Ports: 0 is a free one, remembered under the home folder."""

    model_config = SettingsConfigDict(env_prefix="CNOP_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".local"), description="Folder of data, logs, keys and state")

    kafka: str = Field(default="", description="Bootstrap servers of an external Kafka; empty: an embedded one")
    dynamodb_url: str = Field(default="", description="Endpoint of an external DynamoDB; empty: an embedded engine")
    redis_url: str = Field(default="", description="URL of an external Redis; empty: an embedded Valkey")

    dynamodb: Literal["auto", "dynoxide", "ministack"] = Field(default="auto", description="Which embedded engine speaks the DynamoDB API")

    kafka_port: int = Field(default=0, ge=0, le=65_535)
    kafka_controller_port: int = Field(default=0, ge=0, le=65_535)
    dynamodb_port: int = Field(default=0, ge=0, le=65_535)
    redis_port: int = Field(default=0, ge=0, le=65_535)
    port: int = Field(default=8080, ge=0, le=65_535, description="HTTP port of the origin")

    redis_memory_mb: int = Field(default=256, ge=16, description="Bound of the embedded Valkey's memory")
    shutdown_s: float = Field(default=10.0, gt=0, description="A process that was told to stop is gone after this time, else it is killed")

    jwt_private_key_file: Path | None = None
    jwt_public_key_file: Path | None = None
    secret_file: Path | None = None

    @field_validator("dynamodb", mode="before")
    @classmethod
    def _empty_is_auto(cls, value: object) -> object:
        return value or "auto"

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "LocalSettings":
        """The settings with `env` (names as in the environment) over the process's own environment."""
        prefix = "CNOP_"
        return cls.model_validate({name.removeprefix(prefix).lower(): value for name, value in env.items() if name.startswith(prefix)})
