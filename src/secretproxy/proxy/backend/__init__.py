"""The servers behind the proxy: which there are, how to reach one, and how to cancel there."""
