"""What a run on a cluster keeps in its folder: ledger, plans, attempts, lease, snapshot."""
