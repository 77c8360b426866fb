"""The network addresses of this machine."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether an address or name means this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(plain(name)).is_loopback
    except ValueError:
        return False


def plain(address: str) -> str:
    """Remove the prefix of an IPv4 address on an IPv6 socket (`::ffff:`)."""
    return address.removeprefix("::ffff:") if "." in address else address


def own_addresses() -> list[str]:
    """List the addresses at which other machines reach this one: no loopback and no link-local ones."""
    import ifaddr

    addresses = set()
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            address = ipaddress.ip_address(text.partition("%")[0])
            if not address.is_loopback and not address.is_link_local:
                addresses.add(str(address))
    return sorted(addresses, key=lambda text: (":" in text, text))


def addresses_to_open(host: str) -> list[str]:
    """List the addresses at which a browser reaches a server that is bound to `host`, which may mean all of them."""
    try:
        bound = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return [host]
    if not bound.is_unspecified:
        return [str(bound)]
    reachable = [text for text in own_addresses() if bound.version == 6 or ":" not in text]
    return reachable or ["::1" if bound.version == 6 else "127.0.0.1"]
