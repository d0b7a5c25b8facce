"""How the vector database says no: one exception with the JSON of its two APIs.

The data plane speaks for a gRPC service: {"code": 3, "message": ..., "details": []} with the numbers of gRPC's status
codes. The control plane names them: {"error": {"code": "NOT_FOUND", "message": ...}, "status": 404}.
"""

from __future__ import annotations

from collections.abc import Mapping

from busyhour.model import JSON

_CODES: Mapping[int, tuple[int, str]] = {
    400: (3, "INVALID_ARGUMENT"),
    401: (16, "UNAUTHENTICATED"),
    403: (7, "FORBIDDEN"),
    404: (5, "NOT_FOUND"),
    405: (12, "METHOD_NOT_ALLOWED"),
    409: (6, "ALREADY_EXISTS"),
    413: (3, "PAYLOAD_TOO_LARGE"),
    422: (3, "UNPROCESSABLE_ENTITY"),
    429: (8, "RESOURCE_EXHAUSTED"),
    500: (13, "UNKNOWN"),
    503: (14, "UNAVAILABLE"),
}


class Refused(Exception):
    """A request is answered with an error of the vendor's shape."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status

    def data_plane(self) -> dict[str, JSON]:
        return {"code": _CODES[self.status][0], "message": self.message, "details": []}

    def control_plane(self) -> dict[str, JSON]:
        return {"error": {"code": _CODES[self.status][1], "message": self.message}, "status": self.status}
