-- Logins of the compose file: the app's and the journal's. Change the passwords for anything but a trial.
CREATE ROLE authenticated NOLOGIN;
CREATE ROLE secretproxy_writer NOLOGIN;
CREATE ROLE app LOGIN PASSWORD 'app' IN ROLE authenticated;
CREATE ROLE journal LOGIN PASSWORD 'journal' IN ROLE secretproxy_writer;
