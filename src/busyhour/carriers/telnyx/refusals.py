"""Why Telnyx's API says no: the errors it documents, as exceptions that know their own JSON.

Codes, titles and details are those of developers.telnyx.com/development/api-fundamentals/api-errors; the shape
`{"errors": [{"code", "title", "detail", "meta": {"url"}, "source": {"pointer"}}]}` is that of its API reference.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from busyhour.carriers.serving import ApiRefusal


class Refusal(ApiRefusal):
    """A command that is answered with an error. Nothing of it was done."""

    def __init__(self, status: int, code: str, title: str, detail: str, pointer: str = "") -> None:
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.pointer = pointer
        super().__init__(f"{status} {code} {title}: {detail}")

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "meta": {"url": f"https://developers.telnyx.com/docs/overview/errors/{self.code}"},
        }
        if self.pointer:
            error["source"] = {"pointer": self.pointer}
        return {"errors": [error]}


class Unsupported(Refusal):
    """Telnyx can, this twin cannot."""


def unauthenticated() -> Refusal:
    detail = "The required authentication headers were either invalid or not included in the request."
    return Refusal(401, "10009", "Authentication failed", detail)


def not_found() -> Refusal:
    return Refusal(404, "10005", "Resource not found", "The requested resource or URL could not be found.")


def malformed(detail: str = "The request failed because it was not well-formed.") -> Refusal:
    return Refusal(400, "10015", "Bad Request", detail)


def missing(parameter: str) -> Refusal:
    detail = f"A required parameter was missing: {parameter}."
    return Refusal(422, "10004", "Missing required parameter", detail, f"/{parameter}")


def invalid(parameter: str, detail: str) -> Refusal:
    """Telnyx documents no code for each wrong value; the general one, with the parameter named."""
    return Refusal(422, "10015", "Bad Request", f"{parameter}: {detail}", f"/{parameter}")


def invalid_call() -> Refusal:
    return Refusal(422, "90015", "Invalid Call Control ID", "The call_control_id provided was not valid.")


def ended() -> Refusal:
    detail = "This call is no longer active and can't receive commands."
    return Refusal(422, "90018", "Call has already ended", detail)


def not_answered(command: str) -> Refusal:
    detail = f"This call can't receive {command} command because it has not been answered yet."
    return Refusal(422, "90034", "Call not answered yet", detail)


def unsupported(what: str, mend: str) -> Unsupported:
    """Said openly, in Telnyx's shape, so that nobody looks for it in the agent."""
    return Unsupported(422, "10015", "Bad Request", f"busyhour's twin of Telnyx does not support {what}. {mend}")


def unexpected() -> Refusal:
    return Refusal(500, "10007", "Unexpected error", "An unexpected error occured.")


def authenticate(request: web.Request, api_key: str) -> None:
    """Raises Refusal unless there is a bearer, and the right one; `api_key` "" accepts any."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or (api_key and token.strip() != api_key):
        raise unauthenticated()
