"""Where a client of another maker is run: a folder with a note in it, a gateway, and a model that reads the note."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridgeserver.fakeprovider import FakeProvider, Script, ToolCall
from gateway import Gateway, eventually

PROGRAMS = Path(__file__).parent.parent / "build/clients/node_modules/.bin"
"""Where `make clients` installs them."""

DEADLINE_S = 50
"""For one run of a client; each takes some seconds."""

QUESTION = "Which colour does note.txt name?"
COLOUR = "heliotrope"

CENTRAL_KEYS = {"x-api-key": "central-anthropic-key", "authorization": "Bearer central-openai-key"}


def has_only_loopback() -> bool:
    """Whether this process is in a network namespace out of which nothing leads."""
    return [name for _index, name in socket.if_nameindex()] == ["lo"]


class Stage:
    """One client, its home and its working folder, and what came of its requests."""

    def __init__(self, gateway: Gateway, provider: FakeProvider, folder: Path, shut_proxy: str) -> None:
        self.gateway = gateway
        self.home = folder / "home"
        self.home.mkdir()
        self._provider = provider
        self._shut_proxy = shut_proxy
        self._work = folder / "work"
        self._work.mkdir()
        (self._work / "note.txt").write_text(f"The colour is {COLOUR}.\n")

    def teach(self, tool: str, arguments: Mapping[str, str]) -> None:
        """Let the model call *tool*, and then answer with what the tool said."""
        # The pattern is for requests that offer no tools: clients let a model name the conversation as well.
        call = ToolCall(f"{tool}*", json.dumps(arguments))
        self._provider.script = Script(text="It says: ", tools=(call,), tool_turns=1, quotes_result=True)

    def run(self, program: str, *arguments: str, env: Mapping[str, str], stdin: str = "") -> str:
        """Return what a client prints that ends well; whatever it has started ends with it."""
        process = subprocess.Popen(
            [PROGRAMS / program, *arguments],
            cwd=self._work,
            env=self._environment() | dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(stdin, DEADLINE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.returncode == 0, (output, errors, self.answers())
        return output

    def answers(self) -> list[tuple[str, str, int]]:
        """Return method, path and status of every request that reached the gateway."""
        lines = (self.gateway.folder / "gateway.log").read_text().splitlines()
        events: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
        return [(event["method"], event["path"], event["status"]) for event in events if event["event"] == "request"]

    def refused(self) -> list[tuple[str, str, int]]:
        """Return those that were not answered with success."""
        return [answer for answer in self.answers() if answer[2] != 200]

    def shown(self, header: str) -> set[str | None]:
        """Return what the provider was shown in a header, after making sure that no gateway key reached it."""
        for received in self._provider.requests:
            assert self.gateway.key not in str(received.headers)
        return {received.header(header) for received in self._provider.requests}

    def check_records(self, *, client: str, model: str, tool: str) -> None:
        """Assert that the conversation was recorded whole: who, in which session, with what, and at what cost."""
        records = eventually(self._ended)
        assert {record["status"] for record in records} == {"completed"}
        assert {record["client"] for record in records} == {client}
        [session_id] = {record["session_id"] for record in records}
        assert session_id
        assert {(record["input_tokens"], record["output_tokens"]) for record in records} == {(25, 12)}
        turns = [record for record in records if record["model"] == model][-2:]
        assert [[use["name"] for use in turn["tools"]] for turn in turns] == [[tool], []]
        assert QUESTION in turns[0]["prompt"]

    def _ended(self) -> list[dict[str, Any]] | None:
        records = self.gateway.records()
        count = sum(received.method == "POST" for received in self._provider.requests)
        is_whole = len(records) == count and all(record["status"] != "open" for record in records)
        return records if is_whole else None

    def _environment(self) -> dict[str, str]:
        """Return what a client needs of this process's own variables, and where nothing is to be found."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.home), "TERM": "dumb"}
        if self._shut_proxy:
            env |= {"HTTP_PROXY": self._shut_proxy, "HTTPS_PROXY": self._shut_proxy, "NO_PROXY": "127.0.0.1"}
        return env


MakeStage = Callable[[str], Stage]
"""Takes the name of the program that is to be run."""
