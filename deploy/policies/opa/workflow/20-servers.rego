# What a server starts by itself, or below itself, is a declared step of a registered workflow
# (registry.yaml, `workflows`). The other policies judge it as they judge any step.
package stepwrit

import rego.v1

forbid contains {
	"id": "server-declared-only",
	"reason": "a server may start only what a registered workflow declares",
} if {
	acts
	input.origin == "server"
	not input.workflow
}
