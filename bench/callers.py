"""Callers over HTTP, through the origin: writers that wait for their outcome, and readers."""

import json
import secrets
from pathlib import Path
from typing import Any, Final

import httpx

from bench.figures import in_ms
from bench.generator import Generator, Job, NotMeasured, Run
from bench.stage import Stage
from infra.clock import SystemClock, SystemIds
from infra.tokens import TokenSigner

API: Final = "/api/v1"
TIMEOUT_S: Final = 30.0
CALLERS: Final = 32
USERS: Final = 8
"""Of many callers: each has some of the connections, and a process of the generator."""
WRITERS_OF_ONE: Final = 16
WARM_UP_S: Final = 2.0
DEPOSIT: Final = json.dumps({"amount": "10.00"})
FUNDS: Final = json.dumps({"amount": "1000000.00"})
READS: Final = {"portfolio": "/portfolio", "balance": "/balance", "holdings": "/assets/balances", "orders": "/orders"}
HISTORY: Final = "/balance/transactions"


class Callers:
    """Users of a running system, with tokens signed by its own key: their accounts begin empty."""

    def __init__(self, at: Stage, generator: Generator) -> None:
        environment = at.environment
        self.url = at.addresses.origin_url + API
        self.generator = generator
        self._signer = TokenSigner.from_file(Path(environment["CNOP_JWT_PRIVATE_KEY_FILE"]), SystemClock(), SystemIds())

    def token(self, username: str = "") -> str:
        """An access token of that user, or of a new one."""
        return self._signer.sign(username or f"bench_{secrets.token_hex(6)}", "bench").text

    def deposits(self, callers: int, seconds: float) -> Run:
        """One user each, who deposits again and again."""
        return self._warmed([Job(f"{self.url}/balance/deposit", self.token(), 1, DEPOSIT) for _ in range(callers)], seconds)

    def trading(self, seconds: float) -> Run:
        """Many callers: half of the users deposit, half buy at the market."""
        buyers = [self.funded() for _ in range(USERS // 2)]
        buy = json.dumps({"asset_id": self._asset(buyers[0]), "order_type": "market_buy", "quantity": "0.001"})
        each = CALLERS // USERS
        jobs = [Job(f"{self.url}/orders", token, each, buy) for token in buyers]
        return self._warmed(jobs + [Job(f"{self.url}/balance/deposit", self.token(), each, DEPOSIT) for _ in range(USERS - len(jobs))], seconds)

    def on_one_account(self, seconds: float) -> Run:
        """Many writers, one user."""
        return self._warmed([Job(f"{self.url}/balance/deposit", self.token(), WRITERS_OF_ONE, DEPOSIT)], seconds)

    def alone(self, username: str, path: str, seconds: float, body: str = "") -> Run:
        """One caller of one user."""
        return self.generator.run([Job(self.url + path, self.token(username), 1, body)], seconds)

    def reads(self, seconds: float) -> dict[str, dict[str, float]]:
        """Each kind of read by many callers, without a Consistency-Token and with one that is satisfied."""
        tokens = [self.funded(orders=3) for _ in range(USERS)]
        told = {}
        for name, path in READS.items():
            seen = [self.get(token, path) for token in tokens]
            for suffix, with_token in (("", False), ("_consistent", True)):
                headers = [(("Consistency-Token", answer.headers["Consistency-Token"]),) if with_token else () for answer in seen]
                jobs = [Job(self.url + path, token, CALLERS // USERS, headers=extra) for token, extra in zip(tokens, headers, strict=True)]
                run = self.generator.run(jobs, seconds)
                told[name + suffix] = {"per_s": round(run.per_s), **in_ms(run.times_s, "")}
        return told

    def next_page(self, username: str) -> str:
        """Path of the second page of a user's history; of the first where there is no second."""
        cursor = self.get(self.token(username), HISTORY).json().get("next_cursor")
        return f"{HISTORY}?cursor={cursor}" if cursor else HISTORY

    def get(self, token: str, path: str) -> httpx.Response:
        """One read. NotMeasured where it is refused."""
        return self._sent(httpx.get(self.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S))

    def post(self, token: str, path: str, body: str) -> httpx.Response:
        """One write. NotMeasured where it is refused."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return self._sent(httpx.post(self.url + path, content=body, headers=headers, timeout=TIMEOUT_S))

    def funded(self, orders: int = 0) -> str:
        """A token of a new user who has cash, and has bought so many times."""
        token = self.token()
        self.post(token, "/balance/deposit", FUNDS)
        for _ in range(orders):
            self.post(token, "/orders", json.dumps({"asset_id": self._asset(token), "order_type": "market_buy", "quantity": "0.001"}))
        return token

    def _sent(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_error:
            raise NotMeasured(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
        return answer

    def _warmed(self, jobs: list[Job], seconds: float) -> Run:
        self.generator.run(jobs, WARM_UP_S)
        return self.generator.run(jobs, seconds)

    def _asset(self, token: str) -> str:
        """The first asset of the inventory."""
        return str(self.get(token, "/inventory/assets?limit=1&active_only=true").json()["data"][0]["asset_id"])


def told(run: Run, name: str) -> dict[str, Any]:
    """A run's figures, by name."""
    figures: dict[str, Any] = {f"{name}_per_s": round(run.per_s), **in_ms(run.times_s, name)}
    return figures | ({f"{name}_other_answers": run.others} if run.others else {})
