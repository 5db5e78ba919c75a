"""The programs that are measured: how each is started, and how it wants to be asked."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from benchmarks.gateway import accounting
from benchmarks.gateway.bodies import CHAT_ANSWER, CHAT_MODEL, CLAUDE_ANSWER, CLAUDE_MODEL
from benchmarks.gateway.load.order import Target
from benchmarks.gateway.peers import PINS
from benchmarks.gateway.processes import READY_S, TEST_CORE, Process, environment, free_port
from benchmarks.gateway.requests import BODIES, CLAUDE_FIELDS, OPENAI_FIELDS, Kind
from benchmarks.gateway.wire import request

UPSTREAM_KEY = "sk-the-key-of-the-provider-0123456789"


class Subject:
    """Something that answers requests; this one is the upstream alone."""

    name = "direct"
    title = "the upstream alone"
    missing = ""
    is_exact = True
    """Whether what comes back is byte for byte what the upstream sent."""
    speaks: ClassVar[frozenset[Kind]] = frozenset(Kind)
    chat_path = "/v1/chat/completions"
    messages_path = "/v1/messages"

    def __init__(self, folder: Path, upstream_port: int) -> None:
        self.folder = folder / self.name
        self.folder.mkdir(exist_ok=True)
        self.upstream_port = upstream_port
        self.port = upstream_port
        self.process: Process | None = None

    @property
    def version(self) -> str:
        return ""

    def start(self, cores: Sequence[int] = (TEST_CORE,)) -> None:
        """Start it; it need not answer yet."""

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None

    def groups(self) -> dict[str, list[int]]:
        """Return the ids of its processes: those that serve, and the others if there are such."""
        return {} if self.process is None else {"worker": self.process.tree()}

    def fields(self, kind: Kind) -> Mapping[str, str]:
        """Return the header fields of a request beyond those that every client sends."""
        return {"x-api-key": UPSTREAM_KEY} if kind.is_claude else {"authorization": f"Bearer {UPSTREAM_KEY}"}

    def body(self, kind: Kind) -> bytes:
        return BODIES[kind]

    def ask(self, kind: Kind) -> tuple[str, dict[str, str], bytes]:
        """Return path, header fields and body of a request."""
        usual = CLAUDE_FIELDS if kind.is_claude else OPENAI_FIELDS
        path = self.messages_path if kind.is_claude else self.chat_path
        return path, {"host": f"127.0.0.1:{self.port}", **usual, **self.fields(kind)}, self.body(kind)

    def target(self, kind: Kind, *, events: int = 0) -> Target:
        """Return what the load generator has to know to ask that; *events* are those of a stream."""
        answer = len(CLAUDE_ANSWER if kind.is_claude else CHAT_ANSWER)
        return {
            "port": self.port,
            "request": request(*self.ask(kind)).decode(),
            "body_bytes": answer if self.is_exact and kind is not Kind.STREAM else None,
            "events": events if self.is_exact and events else None,
        }


class Bridgecore(Subject):
    """The gateway under test, with everything on that it has."""

    name = "bridgecore"
    title = "bridgecore"
    missing = ""
    chat_path = "/openai/v1/chat/completions"
    messages_path = "/anthropic/v1/messages"
    workers = 1
    more = ""
    """Further lines of `[server]`."""

    def __init__(self, folder: Path, upstream_port: int) -> None:
        super().__init__(folder, upstream_port)
        self.port = free_port()
        self.database = self.folder / "bridgecore.db"
        self._config = self.folder / "bridgecore.toml"
        self.configure()
        made = self._run("keys", "create", "--user", "bench", "--config", self._config)
        self._key = made.stdout.strip()

    @property
    def version(self) -> str:
        return version("bridgecore")

    def configure(self, *, workers: int = 1, more: str = "") -> None:
        """Write the configuration; everything that is not here is the default."""
        self._config.write_text(f"""\
[server]
port = {self.port}
workers = {workers}
{more}

[store]
url = "sqlite:///{self.database}"

[[providers]]
name = "openai"
type = "openai"
base_url = "http://127.0.0.1:{self.upstream_port}/v1"
keys = ["{UPSTREAM_KEY}"]

[[providers]]
name = "anthropic"
type = "anthropic"
base_url = "http://127.0.0.1:{self.upstream_port}"
keys = ["{UPSTREAM_KEY}"]
""")

    def _run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "bridgeserver", *arguments]
        done = subprocess.run(command, env=environment(), cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, arguments))} failed: {done.stderr}")
        return done

    def start(self, cores: Sequence[int] = (TEST_CORE,)) -> None:
        self.process = Process(
            [sys.executable, "-m", "bridgeserver", "serve", "--config", self._config],
            cores=cores,
            cwd=self.folder,
            log=self.folder / "log",
            stop_signal=signal.SIGINT,  # it drains at once, where SIGTERM first gives load balancers some seconds
        )

    def groups(self) -> dict[str, list[int]]:
        if self.process is None:
            return {}
        tree = self.process.tree()
        workers = [pid for pid in tree[1:] if "spawn_main" in accounting.command_line(pid)]
        return {"worker": workers, "parent": [pid for pid in tree if pid not in workers]}

    def fields(self, kind: Kind) -> Mapping[str, str]:
        return {"x-api-key": self._key} if kind.is_claude else {"authorization": f"Bearer {self._key}"}

    def recorded(self) -> dict[str, int]:
        """Return how many interceptions of each status are in its store."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return dict(connection.execute("SELECT status, count(*) FROM interceptions GROUP BY status"))


class Nginx(Subject):
    """The least that a proxy can cost."""

    name = "nginx"
    title = "nginx `proxy_pass`"
    missing = "A plain reverse proxy, the limit: no keys, no users, no recording, no accounting, nothing of AI."

    def __init__(self, folder: Path, upstream_port: int) -> None:
        super().__init__(folder, upstream_port)
        self.port = free_port()
        (self.folder / "nginx.conf").write_text(f"""\
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {self.folder}/nginx.pid;
error_log {self.folder}/log;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_max_body_size 64m;
    client_body_buffer_size 2m;
    client_body_temp_path {self.folder}/body;
    proxy_temp_path {self.folder}/proxy;
    fastcgi_temp_path {self.folder}/fastcgi;
    uwsgi_temp_path {self.folder}/uwsgi;
    scgi_temp_path {self.folder}/scgi;
    upstream fake {{ server 127.0.0.1:{upstream_port}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        location / {{
            proxy_pass http://fake;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
""")

    @classmethod
    def is_found(cls) -> bool:
        return shutil.which("nginx") is not None

    @property
    def version(self) -> str:
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
        return said.stderr.strip().rpartition("/")[2]

    def start(self, cores: Sequence[int] = (TEST_CORE,)) -> None:
        command: list[str | Path] = [
            "nginx",
            "-p",
            self.folder,
            "-c",
            self.folder / "nginx.conf",
            "-e",
            self.folder / "log",
        ]
        self.process = Process(command, cores=cores, log=self.folder / "log")


class Peer(Subject):
    """Another gateway, which somebody has installed below a folder."""

    is_exact = False
    speaks = frozenset(Kind)

    def __init__(self, folder: Path, upstream_port: int, peers: Path) -> None:
        super().__init__(folder, upstream_port)
        self.home = (peers / self.name).absolute()
        self.title, self.missing = PINS[self.name].title, PINS[self.name].missing
        self.port = free_port()

    @classmethod
    def is_found(cls, peers: Path) -> bool:
        return (peers / cls.name).is_dir()

    @property
    def version(self) -> str:
        package = PINS[self.name].package.partition("[")[0]
        ask = f"from importlib.metadata import version; print(version({package!r}))"
        done = subprocess.run([self.home / "bin/python", "-c", ask], capture_output=True, text=True, check=True)
        return done.stdout.strip()


class LiteLLM(Peer):
    """LiteLLM's proxy with one worker, a master key and no database; its access log is off."""

    name = "litellm"
    key = "sk-master-key"

    def __init__(self, folder: Path, upstream_port: int, peers: Path) -> None:
        super().__init__(folder, upstream_port, peers)
        base = f"http://127.0.0.1:{upstream_port}"
        models = {
            CHAT_MODEL: {"model": f"openai/{CHAT_MODEL}", "api_base": f"{base}/v1", "api_key": UPSTREAM_KEY},
            CLAUDE_MODEL: {"model": f"anthropic/{CLAUDE_MODEL}", "api_base": base, "api_key": UPSTREAM_KEY},
        }
        config = {
            "model_list": [{"model_name": name, "litellm_params": params} for name, params in models.items()],
            "general_settings": {"master_key": self.key},
        }
        (self.folder / "config.yaml").write_text(json.dumps(config))  # which is YAML too
        (self.folder / "logging.json").write_text(json.dumps({"version": 1, "root": {"level": "ERROR"}}))

    def start(self, cores: Sequence[int] = (TEST_CORE,)) -> None:
        command: list[str | Path] = [
            self.home / "bin/litellm",
            "--config",
            self.folder / "config.yaml",
            "--num_workers",
            "1",
        ]
        more: list[str | Path] = [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--log_config",
            self.folder / "logging.json",
        ]
        # The list of prices would else be fetched from the network at each start.
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        self.process = Process([*command, *more], cores=cores, log=self.folder / "log", env=env)

    def fields(self, kind: Kind) -> Mapping[str, str]:
        return {"x-api-key": self.key} if kind.is_claude else {"authorization": f"Bearer {self.key}"}


class TensorZero(Peer):
    """The gateway in TensorZero's wheel, which its own client starts; Python waits beside it and does nothing."""

    name = "tensorzero"
    speaks = frozenset({Kind.CHAT, Kind.STREAM})
    chat_path = "/openai/v1/chat/completions"

    _SCRIPT = (
        "import signal, sys; from tensorzero import _start_http_gateway as start; "
        "gateway = start(config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, "
        "async_setup=False); print(gateway.base_url, flush=True); signal.pause()"
    )

    def __init__(self, folder: Path, upstream_port: int, peers: Path) -> None:
        super().__init__(folder, upstream_port, peers)
        (self.folder / "tensorzero.toml").write_text(f"""\
[gateway.observability]
enabled = false

[models.chat]
routing = ["fake"]

[models.chat.providers.fake]
type = "openai"
api_base = "http://127.0.0.1:{upstream_port}/v1/"
model_name = "{CHAT_MODEL}"
api_key_location = "none"
""")

    def start(self, cores: Sequence[int] = (TEST_CORE,)) -> None:
        command: list[str | Path] = [self.home / "bin/python", "-c", self._SCRIPT, self.folder / "tensorzero.toml"]
        env = {"TENSORZERO_DISABLE_PSEUDONYMOUS_USAGE_ANALYTICS": "1"}
        self.process = Process(command, cores=cores, log=self.folder / "log", env=env, pipes=True)
        while b"http://" not in (line := self.process.read_line(READY_S)):
            pass
        self.port = int(line.decode().split("127.0.0.1:")[1].split("/")[0])

    def body(self, kind: Kind) -> bytes:
        name = f'"model":"{CHAT_MODEL}"'.encode()
        return super().body(kind).replace(name, b'"model":"tensorzero::model_name::chat"')


class Portkey(Peer):
    """Portkey's gateway on Node.js; each request says where to go."""

    name = "portkey"

    def start(self, cores: Sequence[int] = (TEST_CORE,)) -> None:
        script = self.home / "node_modules/@portkey-ai/gateway/build/start-server.js"
        command: list[str | Path] = ["node", script, f"--port={self.port}", "--headless"]
        self.process = Process(command, cores=cores, log=self.folder / "log", env={"NODE_ENV": "production"})

    @property
    def version(self) -> str:
        package = self.home / "node_modules" / PINS[self.name].package / "package.json"
        return str(json.loads(package.read_text())["version"])

    def fields(self, kind: Kind) -> Mapping[str, str]:
        provider = "anthropic" if kind.is_claude else "openai"
        host = f"http://127.0.0.1:{self.upstream_port}/v1"
        return {**super().fields(kind), "x-portkey-provider": provider, "x-portkey-custom-host": host}


PEERS: tuple[type[Peer], ...] = (TensorZero, Portkey, LiteLLM)


def found(folder: Path, upstream_port: int, peers: Path | None) -> list[Subject]:
    """Return what there is on this machine to be measured."""
    subjects: list[Subject] = [Subject(folder, upstream_port)]
    if Nginx.is_found():
        subjects.append(Nginx(folder, upstream_port))
    subjects.append(Bridgecore(folder, upstream_port))
    if peers is not None:
        subjects += [peer(folder, upstream_port, peers) for peer in PEERS if peer.is_found(peers)]
    return subjects
