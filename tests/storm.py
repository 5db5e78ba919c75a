"""A storm: many clients, short calls and long streams, while the gateway reloads again and again."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from gateway import BODIES, Gateway

CHAT = "/openai/v1/chat/completions"
TOGGLED = "/toggled/v1/messages"
BODY = BODIES[CHAT]
STREAM = BODY | {"model": "slow", "stream": True}


class Storm:
    """Clients that judge every answer; what was wrong with one is in `faults`."""

    def __init__(self, gateway: Gateway, texts: tuple[str, ...]) -> None:
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []
        self._gateway = gateway
        self._texts = texts
        self._is_over = False

    async def rage(self, clients: int, reload: Callable[[int], Awaitable[None]], reloads: int, pause_s: float) -> None:
        """Run the clients while the gateway is reloaded so many times; every request ends by itself."""
        self._is_over = False
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"authorization": f"Bearer {self._gateway.key}"}
        timeout = httpx.Timeout(60.0)
        async with httpx.AsyncClient(
            base_url=self._gateway.url, headers=headers, limits=limits, timeout=timeout, trust_env=False
        ) as client:
            running = [asyncio.create_task(self._run(client, number)) for number in range(clients)]
            for number in range(reloads):
                await asyncio.sleep(pause_s)
                await reload(number)
            self._is_over = True
            await asyncio.gather(*running)

    async def _run(self, client: httpx.AsyncClient, number: int) -> None:
        chance = random.Random(number)
        for _ in itertools.count():
            kind = chance.choice(["short", "short", "toggled", "stream"])
            try:
                await getattr(self, f"_{kind}")(client)
            except Exception as exc:  # whatever a client may raise is a fault of the gateway
                self.faults.append(f"{kind}: {type(exc).__name__}: {exc}")
            self.seen[kind] += 1
            if self._is_over:
                return

    async def _short(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(CHAT, json=BODY)
        self._judge(answer, answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else "")

    async def _toggled(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(TOGGLED, json=BODIES["/anthropic/v1/messages"])
        if answer.status_code == 503 and "provider_disabled" in answer.text:
            self.seen["sentinel"] += 1
            return
        self._judge(answer, answer.json()["content"][0]["text"] if answer.status_code == 200 else "")

    async def _stream(self, client: httpx.AsyncClient) -> None:
        async with client.stream("POST", CHAT, json=STREAM) as answer:
            read = await answer.aread()
        text = ""
        for line in read.decode().split("\n\n"):
            if line.startswith("data: {"):
                piece: Any = httpx.Response(200, content=line[6:]).json()
                text += "".join(choice["delta"].get("content") or "" for choice in piece["choices"])
        if not read.endswith(b"data: [DONE]\n\n"):
            self.faults.append(f"stream: not whole: {read[-80:]!r}")
        self._judge(answer, text)

    def _judge(self, answer: httpx.Response, text: str) -> None:
        if answer.status_code != 200 or text not in self._texts:
            self.faults.append(f"{answer.request.url.path}: {answer.status_code}: {text or answer.text}")
        self.seen[text.partition(",")[0]] += 1


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
