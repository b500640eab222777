"""One client of the proxy, from its first byte to the end of its backend."""
