# What a server starts by itself, or below itself, stays at low impact.
package stepwrit

import rego.v1

forbid contains {"id": "server-low-only", "reason": "what a server starts must be of low impact"} if {
	acts
	input.origin == "server"
	not low_impact
}

low_impact if input.action.impact == "low"
