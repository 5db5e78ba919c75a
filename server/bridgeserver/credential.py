"""The header that a provider is shown, and what may be recorded of it."""

from typing import Literal, NamedTuple

CREDENTIAL_HEADERS = {"bearer": b"authorization", "x-api-key": b"x-api-key", "api-key": b"api-key"}
"""By the name of the option `auth`."""


class Credential(NamedTuple):
    """One header field; its name is empty for a provider that wants none."""

    name: bytes
    value: bytes
    kind: Literal["centralized", "byok"]
    hint: str

    @property
    def secret(self) -> str:
        """What of the field must not be read by others: its value, without the scheme."""
        return self.value.decode("latin-1").rpartition(" ")[2]

    def __repr__(self) -> str:
        return f"Credential({self.kind}, {self.hint!r})"


def bearer_token(value: bytes) -> str | None:
    """Return the token of an `Authorization` value: exactly two fields, the first `bearer` in any case."""
    fields = value.decode("latin-1").split()
    return fields[1] if len(fields) == 2 and fields[0].lower() == "bearer" else None
