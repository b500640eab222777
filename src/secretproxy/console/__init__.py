"""The page for auditors: the access log read in a browser, by whoever signed in, with that person's own rights.

A process of its own on Starlette and Jinja2. It reads the log through the questions of `secretproxy.audit`, as the
PostgreSQL login that signed in, and writes down what was read as the log's writer. May import `audit`, `ops` and
`proxy`; nothing imports it but the command line and the demo."""
