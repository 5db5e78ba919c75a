"""`serve --dev`: a gateway to try, in a folder of its own, with a fresh key and without any account."""

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from bridgeserver import fakeprovider
from bridgeserver.config import Config, load
from bridgeserver.logs import configure_logs
from bridgeserver.store import open_store
from bridgeserver.supervisor import Supervisor

FOLDER = Path(".dev")
USER = "dev"
LABEL = "serve --dev"

EXAMPLES = {
    "anthropic": [
        (
            "Anthropic Messages",
            """curl {url}/anthropic/v1/messages -H 'x-api-key: {key}' -H 'anthropic-version: 2023-06-01' \
-H 'content-type: application/json' \
-d '{{"model":"{model}","max_tokens":64,"messages":[{{"role":"user","content":"Hello"}}]}}'""",
        ),
    ],
    "openai": [
        (
            "OpenAI Chat Completions",
            """curl {url}/openai/v1/chat/completions -H 'authorization: Bearer {key}' \
-H 'content-type: application/json' \
-d '{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}]}}'""",
        ),
        (
            "OpenAI Responses",
            """curl {url}/openai/v1/responses -H 'authorization: Bearer {key}' \
-H 'content-type: application/json' -d '{{"model":"{model}","input":"Hello"}}'""",
        ),
    ],
}

MODELS = {"anthropic": "claude-haiku-4-5", "openai": "gpt-5-mini"}


def serve(flags: dict[str, object]) -> None:
    """Serve with the providers whose keys are in the environment, or with the fake provider if there are none."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as stack:
        config, is_fake = _config(flags, stack)
        configure_logs("console", "warning")
        key = fresh_key(config.store.url)
        Supervisor(config, lambda url: print(banner(url, key, config, is_fake=is_fake), flush=True)).run()


def _config(flags: dict[str, object], stack: ExitStack) -> tuple[Config, bool]:
    settings = {
        "BRIDGECORE_STORE__URL": f"sqlite:///{FOLDER.absolute()}/bridgecore.db",
        "BRIDGECORE_SERVER__UNREADY_S": "0.1",
    }
    keys = {name: os.environ[name] for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY") if os.environ.get(name)}
    if not keys:
        fake = stack.enter_context(fakeprovider.running(keep_requests=0, is_unique=True, clock=time.time))
        for name, path in (("anthropic", ""), ("openai", "/v1")):
            prefix = f"BRIDGECORE_PROVIDERS__{name.upper()}__"
            settings |= {
                prefix + "TYPE": name,
                prefix + "BASE_URL": fake.url + path,
                prefix + "KEYS": "fake-key",
            }
    return load(Path(os.devnull), settings | keys, flags), not keys


def fresh_key(store_url: str) -> str:
    """Revoke the keys of earlier starts and return a new one."""
    store = open_store(store_url)
    try:
        store.upgrade()
        for key in store.list_keys():
            if key.label == LABEL and key.revoked_at is None:
                store.revoke_key(key.id, actor=LABEL)
        return store.create_key(USER, LABEL, is_admin=False, actor=LABEL)
    finally:
        store.close()


def banner(url: str, key: str, config: Config, *, is_fake: bool) -> str:
    """Return what is printed once the gateway answers."""
    lines = [f"bridgecore serves on {url}", f"gateway key: {key}"]
    if is_fake:
        lines.append("no ANTHROPIC_API_KEY or OPENAI_API_KEY: the built-in fake provider answers")
    for provider in config.providers:
        for title, command in EXAMPLES.get(provider.type, ()):
            lines += ["", f"# {title}", command.format(url=url, key=key, model=MODELS[provider.type])]
    lines += [
        "",
        f"Records: BRIDGECORE_STORE__URL={config.store.url} {sys.argv[0]} records",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)
