"""Stands in for the processes of the system: `stub.py provision`, and `stub.py run NAME`, which is ready as soon as it listens.

`STUB_FAIL=NAME` makes that one end at once; `STUB_MARK=FILE` gets a line for each provisioning.
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(201)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        sys.stdout.write(json.dumps({"timestamp": "2026-01-01T00:00:00Z", "message": self.path}) + "\n")
        sys.stdout.flush()


def main() -> None:
    name = sys.argv[-1]
    if os.environ.get("STUB_FAIL") == name:
        sys.exit(f"{name} cannot start: it was told to fail")
    if name == "provision":
        with Path(os.environ["STUB_MARK"]).open("a") as mark:
            mark.write("provisioned\n")
        return
    port = int(os.environ["CNOP_PORT" if name == "origin" else "CNOP_ADMIN_PORT"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
