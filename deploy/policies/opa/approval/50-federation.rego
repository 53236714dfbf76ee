# Other trust domains: nobody of theirs acts, and nothing of theirs is opened, unless you name the domain in
# the set below, as in {input.home, "partner.example"}. The registry's `trust_domains` names it as well.
package stepwrit

import rego.v1

let_in := {input.home}

forbid contains {
	"id": "foreign-workloads",
	"reason": "no policy lets workloads of this trust domain take part",
} if not both_let_in

both_let_in if {
	input.initiator.trust_domain in let_in
	input.performer.trust_domain in let_in
}

forbid contains {
	"id": "foreign-resources",
	"reason": "no policy lets credentials go to resources of this trust domain",
} if {
	input.asking == "issue_credential"
	input.redeemer
	not redeemer_let_in
}

redeemer_let_in if input.redeemer.trust_domain in let_in

# What a broker of another trust domain granted (registry: `peers`): it has an owner here and no requester.
permit contains "start-by-peer" if {
	input.asking == "start_intent"
	input.owner
	not input.requester
	input.initiator.trust_domain != input.home
}
