# Who may start what. Everything that no rule permits is refused.
package stepwrit

import rego.v1

permit contains "start-by-person" if {
	input.asking == "start_intent"
	input.initiator.role == "agent"
	input.requester
}

# A trigger acts for nobody; its registered ceiling and owner bound it.
permit contains "start-by-trigger" if {
	input.asking == "start_intent"
	input.initiator.role == "trigger"
	input.owner
}

# A call that came without a step, of a tool that the registry lets be called so: nobody is behind it.
permit contains "start-without-step" if {
	input.asking == "start_intent"
	input.initiator.role == "mcp-server"
	not input.requester
	input.ceiling.impact == "low"
}

# The registry's ceilings and plans, and the operator's limits, hold beside this.
permit contains "registered-tools" if acts

acts if input.asking in {"open_step", "issue_credential"}
