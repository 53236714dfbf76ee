# What a server starts stays at low impact, but for the acts of its client that its `may_start` has to name.
package stepwrit

import rego.v1

forbid contains {"id": "server-low-only", "reason": "what a server starts must be of low impact"} if {
	acts
	input.origin == "server"
	not low_impact
	not named_by_registry
}

low_impact if input.action.impact == "low"

named_by_registry if input.action.tool in {"client/sampling", "client/url"}
