"""The addresses of this machine, and whether somebody else's is one of them."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(plain(name)).is_loopback
    except ValueError:
        return False


def plain(address: str) -> str:
    """An address without what a socket for both protocols puts before it (`::ffff:`)."""
    return address.removeprefix("::ffff:") if "." in address else address


def own_addresses() -> list[str]:
    """Where other machines of the network reach this one: no loopback, and none that needs the name of an interface."""
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
    """What a browser may be told for a server that is bound to `host`: all of this machine's where that is any."""
    try:
        bound = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return [host]
    if not bound.is_unspecified:
        return [str(bound)]
    reachable = [text for text in own_addresses() if bound.version == 6 or ":" not in text]
    return reachable or ["::1" if bound.version == 6 else "127.0.0.1"]
