# A JWT-SVID is a bearer document; an X.509-SVID proves a key on the connection.
package stepwrit

import rego.v1

forbid contains {"id": "jwt-never-high", "reason": "high impact needs a caller attested by X.509-SVID"} if {
	acts
	not by_certificate
	input.action.impact == "high"
}

by_certificate if input.attested_by == "x509"
