# High impact waits for a signature over exactly this step, by the requester or an eligible approver.
package stepwrit

import rego.v1

needs_approval contains {
	"id": "high-needs-approval",
	"setting": "policy/40-approval, high-needs-approval",
} if {
	acts
	input.action.impact == "high"
	not input.approval
}
