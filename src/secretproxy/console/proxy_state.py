"""Asks the proxy how it is, at the health port of the configuration, so that pages say when it is gone.

A log in which nothing new appears looks the same whether nobody calls or nothing is recorded. Asks in the background;
no page waits for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from secretproxy.audit.texts import safe
from secretproxy.config import HealthSettings

# Seconds between two looks, and those that an answer may take.
EVERY, ANSWER = 5.0, 2.0
_MOST = 65_536


class ProxyState:
    """What the proxy said last. `problem`: what to tell on every page, empty if all is well or nobody was asked;
    `waiting`: events that are not in the log yet, None if that is not known."""

    def __init__(self, settings: HealthSettings) -> None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - not listened on
        self._address = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
        # Not by a proxy of the environment: it is on this machine or near it.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.asked = settings.port != 0
        self.problem = ""
        self.waiting: int | None = None

    async def run(self) -> None:
        """Asks again and again."""
        while self.asked:
            self.problem, self.waiting = await asyncio.to_thread(self._look)
            await asyncio.sleep(EVERY)

    def _look(self) -> tuple[str, int | None]:
        try:
            ready, log = self._get("readyz"), self._get("logz")
        except (OSError, ValueError, TypeError, http.client.HTTPException):
            return f"The proxy does not answer at {self._address} (health.host, health.port).", None
        problems = [text for found in (ready, log) if (text := _problem(found))]
        waiting = log[1].get("events_waiting")
        return " ".join(problems), waiting if isinstance(waiting, int) else None

    def _get(self, what: str) -> tuple[int, dict[str, Any]]:
        try:
            with self._opener.open(f"http://{self._address}/{what}", timeout=ANSWER) as answer:
                status, text = answer.status, answer.read(_MOST)
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read(_MOST)
        found = json.loads(text)
        if not isinstance(found, dict):
            raise TypeError("not the proxy's")
        return status, found


def _problem(found: tuple[int, dict[str, Any]]) -> str:
    status, body = found
    if status == 200:
        return ""
    reasons = body.get("reasons")
    said = "; ".join(safe(reason)[:300] for reason in reasons) if isinstance(reasons, list) else ""
    return f"The proxy says: {safe(body.get('status'))[:40]}{f' ({said})' if said else ''}."
