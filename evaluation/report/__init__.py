"""The report: one HTML page about a curation, a training and its evaluation, from their files.

Reads run folders only (ledger, markers, metrics, records), so it can be rebuilt at any time.
Not for: measuring anything.
"""
