"""The proxy: everything with sockets but the journal and the health page. It carries out what a session decides.

    listeners        the process: listening sockets, its supervisor and workers, probes, the check before the start
    client           one client: handshake, relay, and the reading of a backend whose client has gone
    runtime          what all clients of a process share
    authentication   logins in mode scram: the exchange, verifiers, the throttle
    catalog          what leads to secret functions: the watcher of each database, its queries
    backend          which server, how to connect to it, TLS with it, cancel requests
    parsing          the processes that parse long texts
    transport        TLS whose directions end apart, keepalive, what a broken connection still has

A folder imports those below it and none above; lint-imports checks that.
"""
