"""AWS Bedrock: Anthropic's models behind signed requests, by InvokeModel or by Mantle, which speaks Messages itself."""

import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec

import msgspec

from bridgeserver.bedrock.answers import translation_of
from bridgeserver.bedrock.session import AwsSession
from bridgeserver.bedrock.signing import MADE_ANEW, CredentialSource
from bridgeserver.bedrock.translation import Models, effective_model, invoke_path, translate
from bridgeserver.config import ProviderConfig
from bridgeserver.credential import Credential
from bridgeserver.errors import ConfigError
from bridgeserver.headers import Pairs
from bridgeserver.protocols import Facts
from bridgeserver.protocols.messages import Messages
from bridgeserver.providers.provider import MAKE, Outgoing, Provider, ProviderType, Translation
from bridgeserver.secret import Secret

INVOKE = ProviderType(
    name="bedrock",
    prefix="",
    bridged={"/v1/messages": Messages()},
    passthrough={},
    subtrees={},
    error_protocol=Messages(),
    held_back=MADE_ANEW | {b"anthropic-beta", b"anthropic-version"},
)
MANTLE = INVOKE._replace(passthrough={"/v1/messages/count_tokens": MAKE}, held_back=MADE_ANEW)


class BedrockProvider(Provider):
    """A provider that signs what it sends, and with InvokeModel translates it."""

    def __init__(
        self,
        config: ProviderConfig,
        counters: Counter[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_invoke = config.bedrock_api == "invoke"
        super().__init__(config, INVOKE if self._is_invoke else MANTLE, counters, clock)
        self.translates = self._is_invoke
        self._models = Models(config.model, config.small_fast_model)
        self._aws: AwsSession | None = None
        if config.auth == "aws" and config.enabled:
            if find_spec("botocore") is None:
                raise ConfigError(
                    [f"providers.{config.name}: found no botocore, expected `pip install 'bridgecore[bedrock]'`"]
                )
            service = "bedrock" if self._is_invoke else "bedrock-mantle"
            self.session = self._aws = AwsSession(_source(config), config.region, service)

    def outgoing(self, facts: Facts, body: bytes, fields: Pairs) -> Outgoing:
        """Return an InvokeModel request for the model that is configured in place of the one that was asked for."""
        model = effective_model(facts.model, self._models)
        betas = [value.decode("latin-1") for name, value in fields if name == b"anthropic-beta"]
        body = translate(body, betas, model)
        return Outgoing(invoke_path(model, stream=facts.stream), body, msgspec.structs.replace(facts, model=model))

    def translation(self, status: int, fields: Pairs) -> Translation | None:
        """Return how an answer of InvokeModel becomes one of Messages."""
        return translation_of(status, fields) if self._is_invoke else None

    def request_head(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Pairs,
        credential: Credential,
        body: bytes,
        further: bytes = b"",
    ) -> bytes:
        """Return the head, signed unless the caller's own credential is in it.

        A query is meant for Messages: it does not go along with an InvokeModel request.
        """
        query = b"" if self._is_invoke else query
        headers = [field for field in headers if not field[0].startswith(b"x-amz-")]  # nothing of them would be signed
        if self._aws is not None and credential.kind == "centralized":
            url = f"{self.origin.scheme}://{self.host}".encode() + self.target(path, query)
            further += self._aws.sign(method, url.decode(), [(b"host", self.host.encode())], body)
        return super().request_head(method, path, query, headers, credential, body, further)


def _source(config: ProviderConfig) -> CredentialSource:
    pair = config.keys[0].reveal().split(":") if config.keys else []
    return CredentialSource(
        access_key=pair[0] if pair else "",
        access_key_secret=Secret(pair[1]) if pair else None,
        session_token=Secret(pair[2]) if len(pair) == 3 else None,
        profile=config.aws_profile,
        role_arn=config.aws_role,
        external_id=config.aws_external_id,
    )
