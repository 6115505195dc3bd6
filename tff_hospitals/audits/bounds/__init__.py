"""Lower bounds on epsilon that attackers prove, held against the trade-off curve that the ledger promises."""
