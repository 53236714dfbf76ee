# Rules over what came before: add this file to a stance. The tools are those of
# scenarios/registry/month-end.yaml; write your own.
package stepwrit

import rego.v1

# Influence: nothing leaves once the transaction could have read what nobody vouches for.
forbid contains {
	"id": "no-export-after-untrusted",
	"reason": "this transaction has read content that nobody vouches for: begin a new one to export",
} if {
	acts
	input.action.tool in {"ledger/export", "mail/send"}
	some step in input.influence
	step.returns != "trusted"
}

# Chain: nothing is sealed below a step that goes out to the web, whatever it returned.
forbid contains {"id": "no-seal-below-web", "reason": "the books are not sealed below a web request"} if {
	acts
	input.resource == "audit/seal"
	some hop in input.chain
	hop.tool == "web/fetch"
}
