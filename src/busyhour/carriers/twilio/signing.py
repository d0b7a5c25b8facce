"""`X-Twilio-Signature`: twilio.com/docs/usage/security. HMAC-SHA1 over the URL and the sorted parameters, in base64."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from random import Random
from typing import Literal, TypeAlias

from busyhour.carriers.documents.courier import Request

Signature: TypeAlias = Literal["valid", "missing", "wrong", "tampered"]


def signature_of(url: str, fields: Mapping[str, str], auth_token: str) -> str:
    signed = url + "".join(name + fields[name] for name in sorted(fields))
    return base64.b64encode(hmac.digest(auth_token.encode(), signed.encode(), "sha1")).decode()


class Signer:
    """Signs the requests of one account, a share of them in the wrong way."""

    def __init__(self, auth_token: str, how: Signature, share: float) -> None:
        self._auth_token = auth_token
        self._how = how
        self._share = share

    def headers(self, request: Request, random: Random, forged: str) -> dict[str, str] | None:
        """`forged`: how a fault wants it signed; None if it cannot be: there is no time in it that could be stale."""
        how: str = self._how if random.random() < self._share else "valid"
        if forged == "stale":
            return None
        how = forged or how
        agent = {"user-agent": "TwilioProxy/1.1", "i-twilio-idempotency-token": _token(random)}
        if how == "missing":
            return agent
        token = self._auth_token[::-1] + "x" if how == "wrong" else self._auth_token
        url = request.url + ("?" if how == "tampered" else "")
        return agent | {"x-twilio-signature": signature_of(url, request.fields, token)}


def _token(random: Random) -> str:
    return f"{random.getrandbits(128):032x}"
