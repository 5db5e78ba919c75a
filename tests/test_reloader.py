"""The thread that follows file and store: what it publishes, and what it says when something is wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import samples
from bridgeserver.config import Config, load
from bridgeserver.control import ControlServer, Snapshot
from bridgeserver.errors import ConfigError, StoreUnavailable
from bridgeserver.prices import Source as Answered
from bridgeserver.reload import Reloader, Source
from bridgeserver.sealing import open_vault
from bridgeserver.secret import Secret
from bridgeserver.store import Store, open_store
from bridgeserver.store.stored import ProviderFields, ServerFields
from gateway import eventually

FILE = """
[[providers]]
name = "openai"
base_url = "http://127.0.0.1:{port}/v1"
"""

PRICE = """
[[prices]]
model = "ours"
input = {dollars}
"""


class Control:
    """Workers that follow at once."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []

    def publish(self, snapshot: Snapshot) -> None:
        """Take a generation."""
        self.snapshots.append(snapshot)

    def wait_for(self, number: int, timeout_s: float) -> bool:
        """Have followed."""
        del timeout_s
        return self.snapshots[-1].number >= number

    def workers(self) -> list[Any]:
        """Report nothing."""
        return []


class Lab:
    """A reloader over a file and a store in a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "bridgecore.toml"
        self.file.write_text(FILE.format(port=1))
        self.control = Control()
        self.environ: dict[str, str] = {}
        self.on_load: Callable[[], object] = lambda: None
        self.source = Source(self.load, self.file)
        self.config, self.look = self.source.read()
        self.store: Store = open_store(self.config.store.url)
        self.vault = open_vault(self.config.store, self.store.path)

    def load(self) -> Config:
        """Read the file."""
        config = load(self.file, self.environ, {})
        self.on_load()
        return config

    def start(self) -> Reloader:
        """Start a reloader."""
        control = cast("ControlServer", self.control)
        self.reloader = Reloader(self.config, self.look, self.source, self.store, self.vault, control)
        self.reloader.start()
        return self.reloader

    def in_force(self) -> list[str]:
        """Return the addresses of the newest generation."""
        return [provider.base_url for provider in self.control.snapshots[-1].providers]

    def add(self, name: str = "mine") -> None:
        """Store a provider."""
        fields = ProviderFields(type="openai", name=name, base_url="http://127.0.0.1:9/v1", keys=(Secret("a-key"),))
        self.store.create_provider(self.vault, fields, "tests")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab whose reloader is stopped afterwards."""
    lab = Lab(tmp_path)
    yield lab
    lab.reloader.stop()
    lab.store.close()


def test_a_change_of_the_store_is_followed_while_the_file_is_broken(lab: Lab) -> None:
    """The file's last good content stands beside it; the mistake is told once, not at every look."""
    reloader = lab.start()
    lab.file.write_text("[broken")
    eventually(lambda: True if reloader.status().last_error else None)
    lab.add()
    assert reloader.apply(5)
    assert lab.in_force() == ["http://127.0.0.1:1/v1", "http://127.0.0.1:9/v1"]
    at = reloader.status().last_reload_at
    lab.add("other")
    eventually(lambda: True if len(lab.in_force()) == 3 else None)
    assert reloader.status().last_reload_at != at
    assert not reloader._is_due()  # pyright: ignore[reportPrivateUsage]


def test_a_look_is_taken_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears of a change need not wait for the next turn; where nothing has changed, nothing is published."""
    monkeypatch.setattr("bridgeserver.reload.POLL_S", 3600.0)
    reloader = lab.start()
    lab.add()
    reloader.look()
    eventually(lambda: True if len(lab.in_force()) == 2 else None)
    published = len(lab.control.snapshots)
    reloader.look()
    eventually(lambda: True if not reloader._is_woken else None)  # pyright: ignore[reportPrivateUsage]
    assert reloader.apply(5)
    assert len(lab.control.snapshots) == published


def test_a_store_that_fails_applies_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is told so; when it can be read again it is followed."""
    reloader = lab.start()

    def fail(*_args: object) -> None:
        raise StoreUnavailable("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "load", fail)
        patch.setattr(Store, "config_revision", fail)
        assert not reloader.apply(5)
        assert reloader.status().store_error == "the disk is gone"
        assert lab.in_force() == ["http://127.0.0.1:1/v1"]
    eventually(lambda: True if reloader.status().store_error is None else None)
    assert reloader.apply(5)


def test_a_file_that_changed_before_the_start_is_followed(lab: Lab) -> None:
    """The look that counts is the one from before it was read."""
    lab.file.write_text(FILE.format(port=2))
    lab.start()
    eventually(lambda: True if lab.in_force() == ["http://127.0.0.1:2/v1"] else None)


def test_a_file_that_changes_while_it_is_read_is_read_again(lab: Lab) -> None:
    """What is published was whole; a file that never rests is a mistake."""
    lab.start()
    ports = iter(range(2, 4))

    def change() -> None:
        port = next(ports, None)
        if port is not None:
            lab.file.write_text(FILE.format(port=port) + "#" * port)

    lab.on_load = change
    config, look = lab.source.read()
    assert config.providers[0].base_url == "http://127.0.0.1:3/v1"
    assert look == lab.source.look()
    lengths = iter(range(100, 200))
    lab.on_load = lambda: lab.file.write_text("#" * next(lengths))
    with pytest.raises(ConfigError, match="changes all the time"):
        lab.source.read()
    lab.on_load = lambda: None
    lab.file.write_text(FILE.format(port=3))


def test_a_bad_stored_provider_is_excluded(lab: Lab) -> None:
    """The others are served; its status says why, and no secret."""
    lab.start()
    lab.add()
    vault = open_vault(lab.config.store, lab.store.path)
    fields = ProviderFields(type="openai", name="bad", base_url="http://127.0.0.1:9/v1", keys=(Secret("a-key"),))
    lab.store.create_provider(vault, fields, "tests")
    lab.store.path.with_name(f"{lab.store.path.name}.key").unlink()
    lab.reloader.stop()
    lab.vault = open_vault(lab.config.store, lab.store.path)
    lab.start()
    statuses = {status.name: status for status in lab.reloader.status().providers}
    assert {name: status.status for name, status in statuses.items()} == {
        "openai": "enabled",
        "mine": "error",
        "bad": "error",
    }
    assert statuses["bad"].reason
    assert "a-key" not in str(statuses)
    assert lab.in_force() == ["http://127.0.0.1:1/v1"]


WIKI = """
[[mcp_servers]]
name = "wiki"
url = "http://127.0.0.1:1/mcp?key=hunter2"
headers = {{ Authorization = "env:WIKI" }}
enabled = {enabled}
"""


def test_mcp_servers_and_tools_make_generations(lab: Lab) -> None:
    """A change of either is published, the rest stays; a server that is off is listed and not published."""
    reloader = lab.start()
    assert (lab.control.snapshots[-1].mcp_servers, reloader.status().mcp_servers) == ((), ())
    providers = lab.control.snapshots[-1].providers

    def follow(text: str, token: str = "Bearer a") -> Snapshot:
        lab.environ = {"WIKI": token}
        lab.file.write_text(FILE.format(port=1) + text)
        assert reloader.apply(5)
        assert lab.control.snapshots[-1].providers == providers
        return lab.control.snapshots[-1]

    on, off = WIKI.format(enabled="true"), WIKI.format(enabled="false")
    (server,) = follow(on).mcp_servers
    assert server.headers == {"Authorization": Secret("Bearer a")}
    assert follow(on, "Bearer b").mcp_servers[0].headers == {"Authorization": Secret("Bearer b")}
    assert follow(on + "[tools]\nmax_turns = 2", "Bearer b").tools.max_turns == 2
    before = len(lab.control.snapshots)
    assert reloader.apply(5)
    assert len(lab.control.snapshots) == before
    assert follow(off).mcp_servers == ()
    (status,) = reloader.status().mcp_servers
    assert (status.name, status.url, status.status) == ("wiki", "http://127.0.0.1:1/mcp", "disabled")
    assert reloader.status().restart_needed == ()


def test_a_mistake_in_an_mcp_server_is_one_of_the_whole_file(lab: Lab) -> None:
    """Its last good content stands, and the reason shows no secret."""
    reloader = lab.start()
    lab.file.write_text(FILE.format(port=2) + WIKI.format(enabled="true").replace("?", "#"))
    assert reloader.apply(5)
    assert lab.in_force() == ["http://127.0.0.1:1/v1"]
    assert "mcp_servers[0].url: found" in str(reloader.status().last_error)
    assert "hunter2" not in str(reloader.status().last_error)


def test_stored_mcp_servers_stand_beside_the_files(lab: Lab) -> None:
    """Each change is published with the providers as they are: a switch of the file's, a stored one in its place."""
    lab.environ = {"WIKI": "Bearer a"}
    lab.file.write_text(FILE.format(port=1) + WIKI.format(enabled="true"))
    reloader = lab.start()

    def published() -> list[tuple[str, str]]:
        assert reloader.apply(5)
        assert lab.in_force() == ["http://127.0.0.1:1/v1"]
        return [(server.name, server.url) for server in lab.control.snapshots[-1].mcp_servers]

    def statuses() -> list[tuple[str, str, str]]:
        return [(each.name, each.source, each.status) for each in reloader.status().mcp_servers]

    filed, stored = ("wiki", "http://127.0.0.1:1/mcp?key=hunter2"), ("wiki", "http://127.0.0.1:9/mcp")
    assert published() == [filed]
    lab.store.enable_mcp_server("wiki", enabled=False, actor="tests", file_names=reloader.file_servers)
    assert (published(), statuses()) == ([], [("wiki", "file", "disabled")])
    lab.store.create_mcp_server(lab.vault, ServerFields(name="wiki", url=stored[1]), "tests")
    assert (published(), statuses()) == ([stored], [("wiki", "store", "enabled")])
    lab.store.create_mcp_server(lab.vault, ServerFields(name="clock", url="http://127.0.0.1:9/clock"), "tests")
    assert published() == [stored, ("clock", "http://127.0.0.1:9/clock")]
    assert reloader.file_servers == {"wiki": "http://127.0.0.1:1/mcp"}
    lab.store.delete_mcp_server("wiki", "tests")
    lab.store.reset_mcp_server("wiki", "tests")
    eventually(lambda: True if statuses()[-1:] == [("wiki", "file", "enabled")] else None)
    assert published()[0] == filed


def test_a_stored_mcp_server_that_cannot_be_opened_is_excluded(lab: Lab) -> None:
    """It hides the file's of its name; the others serve, and its status says why."""
    lab.environ = {"WIKI": "Bearer a"}
    lab.file.write_text(FILE.format(port=1) + WIKI.format(enabled="true"))
    fields = ServerFields(name="wiki", url="http://127.0.0.1:9/mcp", headers={"X-A": Secret("hunter2")})
    lab.store.upgrade()
    lab.store.create_mcp_server(lab.vault, fields, "tests")
    lab.store.create_mcp_server(lab.vault, ServerFields(name="clock", url="http://127.0.0.1:9/clock"), "tests")
    lab.store.path.with_name(f"{lab.store.path.name}.key").unlink()
    lab.vault = open_vault(lab.config.store, lab.store.path)
    reloader = lab.start()
    assert reloader.apply(5)
    assert [server.name for server in lab.control.snapshots[-1].mcp_servers] == ["clock"]
    clock, wiki = reloader.status().mcp_servers
    assert (clock.status, wiki.status, wiki.source) == ("enabled", "error", "store")
    assert "the key file" in wiki.reason
    assert "hunter2" not in str(reloader.status())


def test_new_prices_hold_without_a_new_generation(lab: Lab) -> None:
    """Prices of the file are in force when they are read, for what is stored from then on; workers need not know."""
    lab.file.write_text(FILE.format(port=1) + PRICE.format(dollars=1))
    lab.config, lab.look = lab.source.read()
    reloader = lab.start()
    usage, source = samples.usage(tokens=(1_000_000, 0, 0, 0)), Answered("openai", "openai", "ours")
    assert lab.store.prices.cost(usage, source).cost_micros == 1_000_000
    lab.file.write_text(FILE.format(port=1) + PRICE.format(dollars=2))
    assert reloader.apply(10)
    assert lab.store.prices.cost(usage, source).cost_micros == 2_000_000
    assert [snapshot.number for snapshot in lab.control.snapshots] == [0, 1]


def test_prices_go_by_the_addresses_in_force(lab: Lab) -> None:
    """Whose prices hold follows a provider that is stored while the gateway runs."""
    reloader = lab.start()
    usage, source = samples.usage(tokens=(1_000_000, 0, 0, 0)), Answered("openai", "mine", "gpt-4o")
    assert lab.store.prices.cost(usage, source).cost_micros == 2_500_000
    fields = ProviderFields(type="openai", name="mine", base_url="https://api.groq.com/openai/v1")
    lab.store.create_provider(lab.vault, fields, "tests")
    assert reloader.apply(10)
    assert lab.store.prices.cost(usage, source).cost_micros is None
