"""Every knob of the system, read from `CNOP_*` environment variables once, at the start of a process.

The only module that reads the environment. A composition root calls `Settings()` and passes values down.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.instants import EPOCH, Instant
from schemas.money import Amount

BasisPoints = Annotated[int, Field(ge=0, le=1_000)]


class Settings(BaseSettings):
    """Addresses, key files, bounds. Defaults are those of a local run; secrets have no default value, only a default path."""

    model_config = SettingsConfigDict(env_prefix="CNOP_", frozen=True, extra="ignore")

    # Machines. Empty for `cnop up` means: start an embedded one on a free port.
    kafka: str = Field(default="", description="Kafka bootstrap servers, host:port[,host:port]")
    dynamodb_url: str = Field(default="", description="DynamoDB endpoint; empty with AWS credentials means Amazon DynamoDB")
    redis_url: str = Field(default="", description="redis://host:port/db")
    aws_region: str = "us-east-1"

    # Keys.
    jwt_private_key_file: Path = Path(".local/keys/jwt_private.pem")
    jwt_public_key_file: Path = Path(".local/keys/jwt_public.pem")
    secret_file: Path = Field(default=Path(".local/keys/secret"), description="32+ random bytes; MACs of command ids and cursors derive from it")

    # This process.
    host: str = "127.0.0.1"
    port: int = Field(default=8080, description="HTTP port of a door, or of the local origin")
    admin_port: int = Field(default=0, description="HTTP port of /livez /readyz /metrics of a processor; 0: a free one")
    slot: str = Field(default="0", pattern=r"^[A-Za-z0-9_-]{1,32}$", description="Stable name of this instance among its kind (static group membership)")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_batch_lines_max: int = Field(default=8, ge=0, description="Batches up to this many requests get a log line each; larger ones one line")
    otlp_endpoint: str = Field(default="", description="OTLP/HTTP collector; empty: no tracing SDK, traceparent is only passed on")
    shutdown_s: float = Field(default=10.0, gt=0, description="A process that was told to stop is gone after this time")

    # Shape of the log.
    account_partitions: int = Field(default=4, ge=1, le=1024, description="Partitions of the request and result topics, fixed at creation")

    topic_replication: int = Field(default=1, ge=1, le=7, description="Replicas of each partition of a new topic; 3 in production")

    # The write door.
    wait_s: float = Field(default=5.0, ge=0, le=30, description="Default wait of a POST for its outcome")
    publish_wait_s: float = Field(default=3.0, gt=0, description="A publish not acknowledged in this time is told as unknown")
    waiters_max: int = Field(default=2_000, ge=1, description="Callers waiting at once in one door; one more is shed with 503")
    publishes_max: int = Field(default=1_000, ge=1, description="Requests handed to Kafka by one door and not acknowledged; one more is shed with 503")
    bodies_bytes_max: int = Field(default=64 * 2**20, ge=2**16, description="Bytes of bodies of writes in progress in one door; one more is shed with 503")
    lag_max: int = Field(default=10_000, ge=1, description="Requests waiting for settlement in one partition; more for its accounts are shed with 503")
    deposit_day_limit: Amount = Field(default="10000000.00", validate_default=True)
    withdraw_day_limit: Amount = Field(default="10000000.00", validate_default=True)
    order_total_max: Amount = Field(default="10000000.00", validate_default=True)
    fee_bps: BasisPoints = Field(default=0, description="Fee on orders in basis points of their value")
    fee_bps_by_category: dict[str, BasisPoints] = Field(default={}, description="Fees of categories of assets, for those that have another one")
    price_age_max_s: float = Field(default=300.0, gt=0, description="Orders are refused price-unavailable where the last published price is older than this")
    quote_age_max_s: float = Field(default=30.0, gt=0, description="A market order decided later than this after its quote is refused price-expired")
    auth_requests_per_minute: int = Field(default=240, ge=1, description="Requests to /auth/register, login and refresh per client address")
    login_attempts_per_minute: int = Field(default=10, ge=1, description="Logins per client address and username")
    trusted_proxies: int = Field(default=0, ge=0, description="Reverse proxies in front that append to X-Forwarded-For")

    # The read door.
    stream_listeners_max: int = Field(default=10_000, ge=1, description="Open streams of one door; one more is refused with 503")

    # The market.
    market_interval_s: float = Field(default=60.0, gt=0, description="Time between published prices")
    market_source: Literal["fixed", "simulated", "replayed"] = Field(default="fixed", description="Where prices come from")
    market_seed: int = Field(default=1, description="simulated: the market of another seed is another one")
    market_replay_dir: Path = Field(default=Path("prices"), description="replayed: folder of <ASSET>.csv files of time, open, high, low, close")
    market_replay_starts: Instant = Field(default=EPOCH, description="replayed: when the first row of each file is the price")
    market_replay_speed: float = Field(default=1.0, gt=0, description="replayed: seconds of history that pass in one second")

    # Projections.
    view_ttl_s: int = Field(default=7 * 86_400, ge=60)
    warm_accounts_max: int = Field(default=10_000, ge=0, description="Accounts, active last, whose views a starting projector makes sure of; 0: none")
