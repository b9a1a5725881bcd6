"""What a guest's cloud-init begins with, as it lies in a file between the gateway and an agent. No message carries it: it may hold
passwords, and messages are recorded."""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Value

USER_DATA_CHARS_MAX = 256 << 10
NETWORK_CHARS_MAX = 64 << 10
KEY_CHARS_MAX = 16 << 10
KEYS_MAX = 32
SEED_BYTES_MAX = 4 << 20
"""of the file: characters may take several bytes"""
HOSTNAME = r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*)?$"

UserData = Annotated[str, msgspec.Meta(max_length=USER_DATA_CHARS_MAX)]
NetworkConfig = Annotated[str, msgspec.Meta(max_length=NETWORK_CHARS_MAX)]
SshKey = Annotated[str, msgspec.Meta(max_length=KEY_CHARS_MAX, pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n\r]*)?$")]
Hostname = Annotated[str, msgspec.Meta(max_length=253, pattern=HOSTNAME)]


class SeedContent(Value):
    """user_data: as cloud-init reads it, verbatim; network_config likewise. ssh_keys: lines of authorized_keys."""

    user_data: UserData = "#cloud-config\n{}\n"
    network_config: NetworkConfig = ""
    hostname: Hostname = ""
    ssh_keys: Annotated[tuple[SshKey, ...], msgspec.Meta(max_length=KEYS_MAX)] = ()
