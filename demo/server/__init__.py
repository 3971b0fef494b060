"""The server of ``dinoforge demo``: a JSON API and the page, for one person on one machine.

Uploads live in memory for half an hour and are never written to disk. Hostile bytes are decoded in
a process of their own (`decoding`), requests pass `access` before anything else reads them, and one
thread at a time runs the network (`workers`). Not for: a public service.
"""
