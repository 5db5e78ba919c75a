"""Secrets at rest: what opens where, and where the key is."""

import base64
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridgeserver.config import StoreConfig, load
from bridgeserver.errors import ConfigError, SealError
from bridgeserver.sealing import Vault, decode_key, key_id, open_vault
from bridgeserver.secret import Secret

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
TEXT = "sk-test-0123456789abcdefghij"


def spelt(key: bytes) -> str:
    """Return a key as the configuration has it."""
    return base64.b64encode(key).decode()


def file_vault(folder: Path) -> Vault:
    """Return a vault whose key is in a file."""
    return open_vault(StoreConfig(), folder / "a.db")


def test_what_is_sealed_opens_in_its_row() -> None:
    """A sealed value names its key, shows nothing, and opens."""
    sealed = Vault([OLD]).seal(TEXT, "row")
    assert sealed.startswith(f"{key_id(OLD)}.")
    assert TEXT not in sealed
    assert Vault([OLD]).open(sealed, "row") == TEXT


def test_each_seal_is_fresh() -> None:
    """The same text never looks the same twice."""
    vault = Vault([OLD])
    assert vault.seal(TEXT, "row") != vault.seal(TEXT, "row")


def test_keys_rotate() -> None:
    """The first key seals and all open; without the old one the message names its id and what to do."""
    old = Vault([OLD]).seal(TEXT, "row")
    both = Vault([NEW, OLD])
    assert both.open(old, "row") == TEXT
    assert Vault([NEW]).open(both.seal(TEXT, "row"), "row") == TEXT
    with pytest.raises(SealError, match=f"{key_id(OLD)}.*{key_id(NEW)}.*store.encryption_key"):
        Vault([NEW]).open(old, "row")


@pytest.mark.parametrize("change", ["row", "cut", "flip", "text", "short"])
def test_a_broken_value_is_refused(change: str) -> None:
    """A value of another row, cut, changed or garbled does not open, and the message shows none of it."""
    vault = Vault([OLD])
    sealed = vault.seal(TEXT, "row")
    name, _, rest = sealed.partition(".")
    data = bytearray(base64.b64decode(rest))
    data[-1] ^= 1
    values = {
        "row": sealed,
        "cut": f"{name}.{rest[:-8]}",
        "flip": f"{name}.{base64.b64encode(data).decode()}",
        "text": f"{name}.not base64 hunter2",
        "short": f"{name}.AAAA",
    }
    with pytest.raises(SealError, match=r"broken or belongs to another row.*restore") as caught:
        vault.open(values[change], "other" if change == "row" else "row")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("sealed", ["", "hunter2 in clear", "hunter2.x"])
def test_what_was_never_sealed_is_refused(sealed: str) -> None:
    """A text in the place of a sealed value is not shown."""
    with pytest.raises(SealError, match="an unreadable id") as caught:
        Vault([OLD]).open(sealed, "row")
    assert "hunter2" not in str(caught.value)


def test_a_vault_without_keys_says_so() -> None:
    """Nothing is ever stored in clear for want of a key."""
    with pytest.raises(SealError, match=r"store\.encryption_key"):
        Vault([]).seal(TEXT, "row")


def test_a_key_of_another_length_is_refused() -> None:
    """A caller that skipped the configuration's check is told, without the key."""
    with pytest.raises(SealError, match="32 bytes"):
        decode_key(Secret("AAAA"))


@pytest.mark.parametrize("text", [f'"{spelt(OLD)}"', f'["{spelt(OLD)}"]', '"env:SEAL"', '["file:seal"]'])
def test_the_configuration_takes_a_key(tmp_path: Path, text: str) -> None:
    """One text or a list: a literal, a variable or a file."""
    (tmp_path / "seal").write_text(spelt(OLD) + "\n")
    path = tmp_path / "c.toml"
    path.write_text(f"[store]\nencryption_key = {text}")
    config = load(path, {"SEAL": spelt(OLD)}, {})
    vault = open_vault(config.store, tmp_path / "a.db")
    assert vault.seal(TEXT, "row").startswith(key_id(OLD))
    assert not (tmp_path / "a.db.key").exists()


@pytest.mark.parametrize("key", ["hunter2!", "aHVudGVyMg==", spelt(OLD + b"x"), spelt(OLD)[:-1], ""])
def test_the_configuration_refuses_what_is_no_key(tmp_path: Path, key: str) -> None:
    """Wrong base64 and a wrong length are mistakes that say what is expected and show nothing."""
    path = tmp_path / "c.toml"
    path.write_text(f'[store]\nencryption_key = ["{spelt(OLD)}", "{key}"]')
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    (mistake,) = caught.value.mistakes
    assert f"store.encryption_key[1]: found a literal of {len(key)} characters" in mistake
    assert not key or key not in mistake


def test_a_key_file_is_made_once(tmp_path: Path) -> None:
    """The first seal makes a private file and warns; later ones, and other vaults, use it."""
    with capture_logs() as logs:
        vault = file_vault(tmp_path)
        assert not list(tmp_path.iterdir())
        sealed = vault.seal(TEXT, "row")
        file_vault(tmp_path).seal(TEXT, "row")
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("key_file_made", "warning")]
    (path,) = tmp_path.iterdir()
    assert path.name == "a.db.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert file_vault(tmp_path).open(sealed, "row") == TEXT


def test_makers_at_once_agree(tmp_path: Path) -> None:
    """Of several that make the file at once one succeeds, and all seal with its key."""
    with ThreadPoolExecutor(8) as pool:
        flights = [pool.submit(file_vault(tmp_path).seal, TEXT, "row") for _ in range(16)]
        sealed = [flight.result() for flight in flights]
    assert {file_vault(tmp_path).open(text, "row") for text in sealed} == {TEXT}
    assert [path.name for path in tmp_path.iterdir()] == ["a.db.key"]


def test_the_key_file_serves_as_an_old_key(tmp_path: Path) -> None:
    """A gateway moves from the file to the configuration by naming the file after the new key."""
    sealed = file_vault(tmp_path).seal(TEXT, "row")
    path = tmp_path / "c.toml"
    path.write_text(f'[store]\nencryption_key = ["{spelt(NEW)}", "file:a.db.key"]')
    assert open_vault(load(path, {}, {}).store, tmp_path / "a.db").open(sealed, "row") == TEXT


def test_opening_makes_no_key_file(tmp_path: Path) -> None:
    """A lost file is reported and not replaced by another key."""
    with pytest.raises(SealError, match=r"a\.db\.key cannot be read .*restore it"):
        file_vault(tmp_path).open("00000000.AAAA", "row")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The message gives the command that mends it; nothing is mended behind the operator's back."""
    sealed = file_vault(tmp_path).seal(TEXT, "row")
    path = tmp_path / "a.db.key"
    path.chmod(mode)
    rule = f"found mode {mode:04o}, expected 0600: run `chmod 600"
    with pytest.raises(SealError, match=rule):
        file_vault(tmp_path).open(sealed, "row")
    with pytest.raises(SealError, match=rule):
        file_vault(tmp_path).seal(TEXT, "row")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("content", ["", "hunter2", spelt(OLD)[:-4]])
def test_a_key_file_with_something_else_stays(tmp_path: Path, content: str) -> None:
    """A file that holds no key is refused, not shown and never written to."""
    path = tmp_path / "a.db.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(SealError, match="found something else") as caught:
        file_vault(tmp_path).seal(TEXT, "row")
    assert "hunter2" not in str(caught.value)
    assert path.read_text() == content


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message gives the reason and the two ways out."""

    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SealError, match=r"cannot be made \(Permission denied\).*store\.encryption_key"):
        file_vault(tmp_path).seal(TEXT, "row")
    assert not list(tmp_path.iterdir())


def test_a_shared_database_needs_a_configured_key() -> None:
    """There is no place for a key beside a database on a server, so without one nothing is sealed or opened."""
    vault = open_vault(StoreConfig(url="postgresql://host/db"), None)
    with pytest.raises(SealError, match=r"store\.encryption_key: found nothing"):
        vault.seal(TEXT, "row")
    with pytest.raises(SealError, match=r"store\.encryption_key: found nothing"):
        vault.open(Vault([OLD]).seal(TEXT, "row"), "row")
