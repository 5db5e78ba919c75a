"""What docs/clients says of the gateway is so."""

import re
from pathlib import Path

import msgspec
import pytest

from bridgeserver.config import ProviderConfig
from bridgeserver.errors import NotFound
from bridgeserver.providers import TYPES, build

FOLDER = Path(__file__).parent.parent / "docs/clients"
INDEX = FOLDER / "README.md"
PAGES = sorted(FOLDER.glob("*.md"))
CONFIGS = [{"name": name, "type": name, "base_url": "http://127.0.0.1:9", "auth": "bearer"} for name in TYPES]
PROVIDERS = build(msgspec.convert(CONFIGS, tuple[ProviderConfig, ...]))


def is_served(path: str) -> bool:
    """Whether *path* is a route, or a base URL: a beginning of one that includes the provider's own prefix."""
    name = path.split("/")[1]
    has_prefix = f"{path}/".startswith(f"/{name}{TYPES[name].prefix}/")
    if has_prefix and any(f"{route}/".startswith(f"{path}/") for route, _ in PROVIDERS[name].bridged_routes()):
        return True
    try:
        PROVIDERS[name].route("GET", path)
    except NotFound:
        return False
    return True


def test_the_index_links_every_page() -> None:
    """The index names the pages that are there, and the README leads to it."""
    linked = set(re.findall(r"\(([a-z-]+\.md)\)", INDEX.read_text()))
    assert linked == {page.name for page in PAGES} - {INDEX.name}
    assert "docs/clients/README.md" in (FOLDER.parent.parent / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_base_urls_are_routes(page: Path) -> None:
    """Every address on a page leads somewhere."""
    paths = re.findall(r"http://HOST:8080(/[\w/.-]*)", page.read_text())
    assert paths
    assert [path for path in paths if not is_served(path)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != INDEX], ids=lambda page: page.stem)
def test_a_page_answers_every_question(page: Path) -> None:
    """Each has the same sections, and says whether anybody tries what stands there."""
    text = page.read_text()
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == ["A central key", "Your own key", "Check", "Traps"]
    assert "`make clients`" in text
    assert "`bridgecore records --follow`" in text
    assert "X-Bridge-Token" in text or "central key has to pay" in text


@pytest.mark.parametrize("path", ["/anthropic/v2", "/openai", "/openai/responses", "/copilot/v1/chat", "/openai/v"])
def test_a_wrong_address_is_found(path: str) -> None:
    """The check above can fail."""
    assert not is_served(path)
