"""The one catalogue of error codes, and the RFC 9457 body in which they are told."""

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

PROBLEM_JSON: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of error. `retryable`: the same request (with the same Idempotency-Key) may succeed later."""

    code: str
    status: int
    title: str
    retryable: bool = False

    @property
    def uri(self) -> str:
        """The `type` member: a name, not an address to fetch."""
        return f"urn:cnop:problem:{self.code}"


def _catalogue(*types: ProblemType) -> dict[str, ProblemType]:
    return {kind.code: kind for kind in types}


PROBLEMS: Final = _catalogue(
    # The call itself.
    ProblemType("validation-failed", 422, "The request has invalid fields"),
    ProblemType("malformed-body", 400, "The body is not a JSON object"),
    ProblemType("invalid-cursor", 400, "The cursor is damaged, expired or belongs to another list"),
    ProblemType("invalid-header", 400, "A header has an invalid value"),
    ProblemType("unauthorized", 401, "A valid bearer token is needed"),
    ProblemType("invalid-credentials", 401, "Username or password is wrong"),
    ProblemType("invalid-refresh-token", 401, "The refresh token is not valid any more"),
    ProblemType("not-found", 404, "There is no such resource"),
    ProblemType("method-not-allowed", 405, "The resource does not know this method"),
    ProblemType("not-acceptable", 406, "The resource has no such representation"),
    ProblemType("body-too-large", 413, "The body is too large"),
    ProblemType("unsupported-media-type", 415, "The body must be application/json"),
    ProblemType("rate-limited", 429, "Too many requests", retryable=True),
    # Conflicts.
    ProblemType("username-taken", 409, "The username is taken"),
    ProblemType("email-taken", 409, "The email address is taken"),
    ProblemType("order-not-open", 409, "The order is not open any more"),
    ProblemType("idempotency-key-reused", 422, "The Idempotency-Key was used for a different request"),
    # Refusals by the rules: outcomes, final for that request.
    ProblemType("insufficient-funds", 422, "Not enough available cash"),
    ProblemType("insufficient-holdings", 422, "Not enough available holdings of the asset"),
    ProblemType("limit-exceeded", 422, "The daily limit is exceeded"),
    ProblemType("unknown-asset", 422, "There is no such asset"),
    ProblemType("asset-inactive", 422, "The asset is not traded now"),
    ProblemType("below-minimum", 422, "The amount is below the minimum"),
    ProblemType("above-maximum", 422, "The amount is above the maximum"),
    ProblemType("duplicate-client-order-id", 422, "The client_order_id was used before"),
    ProblemType("price-required", 422, "An order that is to wait for a price needs one"),
    ProblemType("price-not-allowed", 422, "A market order takes no price"),
    ProblemType("price-expired", 422, "The quoted price was too old when the order was decided", retryable=False),
    ProblemType("too-many-open-orders", 422, "The account has as many open orders as it may have"),
    ProblemType("fenced", 409, "The command was fenced and will never happen"),
    # The system.
    ProblemType("price-unavailable", 503, "There is no current price of the asset", retryable=True),
    ProblemType("unavailable", 503, "The service is not available now; nothing was sent", retryable=True),
    ProblemType("outcome-unknown", 503, "It is unknown whether the request was taken; ask for the command or repeat it with the same key", retryable=True),
    ProblemType("overloaded", 503, "The service is at its limit; nothing was sent", retryable=True),
    ProblemType("projection-behind", 503, "The view does not show the asked version yet", retryable=True),
    ProblemType("internal", 500, "An unexpected error", retryable=True),
)


class FieldError(BaseModel):
    """One invalid field: `pointer` is a JSON pointer into the body, or `#/query/limit`, `#/path/order_id`, `#/header/…`."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """The body of every error answer (RFC 9457, with extensions)."""

    model_config = ConfigDict(json_schema_extra={"description": "Problem details (RFC 9457)"})

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool
    instance: str | None = None
    errors: list[FieldError] = Field(default_factory=list)
