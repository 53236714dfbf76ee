# What a policy may demand beside its yes. Put it beside a stance; needs facts.json with {"amount": "Long"}.
package stepwrit

import rego.v1

permit contains "transfers-with-care" if is_transfer

obligation contains {"id": "transfers-with-care", "name": name, "value": value} if {
	is_transfer
	some name, value in {"max_life": "30", "require": "x509,dpop", "redact": "amount"}
}

permit contains "large-transfers-with-more-care" if is_large

obligation contains {"id": "large-transfers-with-more-care", "name": name, "value": value} if {
	is_large
	some name, value in {"max_life": "10", "fan_out": "0"}
}

is_transfer if {
	input.asking in {"open_step", "issue_credential"}
	input.resource == "ledger/transfer"
}

is_large if {
	is_transfer
	input.facts.amount > 1000
}
