"""The process: its listening sockets, its workers, and how it starts and ends."""
