"""Logins that the proxy checks itself (auth.mode = "scram")."""
