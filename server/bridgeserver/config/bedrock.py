"""The options of a Bedrock provider: which defaults follow from others, and what they must not be together."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from bridgeserver.config.schema import ProviderConfig
from bridgeserver.config.sources import Table, Values, Wrong

URLS = {
    "invoke": "https://bedrock-runtime.{region}.amazonaws.com{suffix}",
    "mantle": "https://bedrock-mantle.{region}.api.aws/anthropic",
}
HOST = re.compile(
    r"(?:.*\.)?bedrock(?:-[a-z]+)*\.([a-z]{2,}(?:-[a-z]+)+-[0-9]+)\.(?:vpce\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws)"
)
OPTIONS = ("region", "bedrock_api", "model", "small_fast_model", "aws_profile", "aws_role", "aws_external_id")
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(ProviderConfig) if field.name in OPTIONS}


def derive(table: Table, values: Values) -> None:
    """Add the URL that follows from the region; a region that the URL's host names is the one that counts."""
    if "base_url" not in table.members and values.get("region") and "bedrock_api" in values:
        values["base_url"] = base_url_of(values["region"], values["bedrock_api"])
    found = region_of(values.get("base_url", ""))
    if found and "region" in values:
        values["region"] = found


def base_url_of(region: str, api: str = "invoke") -> str:
    """Return where Bedrock is in *region*."""
    return URLS[api].format(region=region, suffix=".cn" if region.startswith("cn-") else "")


def region_of(base_url: str) -> str | None:
    """Return the region that the host of one of AWS's endpoints for Bedrock names, or None."""
    try:
        found = HOST.fullmatch(urlsplit(base_url).hostname or "")
    except ValueError:
        return None
    return found[1] if found else None


def out_of_place(table: Table, values: Values) -> Iterator[Wrong]:
    """Yield the options that only this type has, of a provider of another one."""
    for name in OPTIONS:
        if name in table.members and name in values and values[name] != DEFAULTS[name]:
            yield name, "an option of Bedrock", f'type = "bedrock", or nothing for {values["type"]}'
    if values.get("auth") == "aws":
        yield "auth", '"aws"', f"a way that {values['type']} knows: only Bedrock takes signatures"


def mistakes(table: Table, values: Values) -> Iterator[Wrong]:
    """Yield what is wrong with a provider of this type."""
    is_aws = values.get("auth") == "aws"
    if "base_url" not in values and "base_url" not in table.members and "region" in values:
        yield "region", "nothing", "region or base url required: one of the two"
    elif is_aws and "base_url" in values and values.get("region") == "":
        yield "region", "nothing, and none in the host of base_url", "the region that signatures are made for"
    if values.get("auth") not in {None, "aws", "bearer", "none"}:
        yield "auth", f'"{values["auth"]}"', '"aws", "bearer" for an API key of Bedrock, or "none"'
    if is_aws and "keys" in values:
        yield from _pair_mistakes(values)
    if values.get("aws_external_id") and not values.get("aws_role") and "aws_role" in values:
        yield "aws_external_id", "an external id without a role", "aws_role beside it"


def _pair_mistakes(values: Values) -> Iterator[Wrong]:
    pairs = [key.reveal().split(":") for key in values["keys"]]
    if len(pairs) > 1:
        yield "keys", f"{len(pairs)} keys", "at most one pair, since AWS credentials do not fall back"
    if any(len(pair) not in {2, 3} or not all(pair) for pair in pairs):
        expected = '"ACCESS_KEY_ID:SECRET_ACCESS_KEY", with ":SESSION_TOKEN" if there is one'
        yield "keys", "something else", f"both access key and access key secret must be provided together: {expected}"
    if pairs and values.get("aws_profile"):
        yield "aws_profile", "a profile beside a pair of keys", "one of the two"
