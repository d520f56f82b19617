"""What requests that go out to a hub have in common."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]
# It becomes a header, of which servers take some kilobytes.
Token = Annotated[str, Meta(pattern=r"^[!-~]+$", max_length=4096)]
Address = Annotated[str, Meta(pattern=r"^https?://[^/\s@]+(/\S*)?$")]
