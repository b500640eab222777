"""A private PostgreSQL and a short tour on it: what `secretproxy demo` runs, and what the tests stand on."""
