package policy

import (
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// explainProof describes the ways by proof of possession, and is the last to be
// asked.
func explainProof(out *AuthWay, way *rulesv1.Authenticator) {
	switch method := way.GetMethod().(type) {
	case *rulesv1.Authenticator_ClientCertificate:
		certificate := method.ClientCertificate
		out.Method = "clientCertificate"
		out.Detail = "a client certificate " + explainTeller(certificate.GetSource()) + " whose " + certificateNames()[certificate.GetName()] +
			" is " + strings.Join(certificate.GetNames(), " or ")
		if len(certificate.GetAuthorities()) > 0 {
			out.Detail += ", of the policy's authorities"
		}
		if len(certificate.GetRevocationLists()) > 0 {
			out.Detail += " and not revoked by them"
		}
	case *rulesv1.Authenticator_HttpSignature:
		signature := method.HttpSignature
		components := signature.GetComponents()
		if len(components) == 0 {
			components = []string{"@method", "@authority", "@path", "@query"}
		}
		out.Method = "httpSignature"
		out.Detail = "a signature by a Consumer's key over " + strings.Join(components, ", ") + ", made with " + strings.Join(signature.GetAlgorithms(), ", ")
	default:
		out.Method = "other"
	}
}

func certificateNames() map[rulesv1.ClientCertificateAuthenticator_Name]string {
	return map[rulesv1.ClientCertificateAuthenticator_Name]string{
		rulesv1.ClientCertificateAuthenticator_NAME_SPIFFE:      "SPIFFE id",
		rulesv1.ClientCertificateAuthenticator_NAME_DNS:         "DNS name",
		rulesv1.ClientCertificateAuthenticator_NAME_EMAIL:       "email address",
		rulesv1.ClientCertificateAuthenticator_NAME_COMMON_NAME: "common name",
		rulesv1.ClientCertificateAuthenticator_NAME_SUBJECT:     "subject",
	}
}

func explainTeller(source *rulesv1.ClientCertificateSource) string {
	by := " by hops in " + strings.Join(source.GetTrustedAddresses(), " or ")
	switch source.GetFrom() {
	case rulesv1.ClientCertificateSource_FROM_XFCC:
		return "told in X-Forwarded-Client-Cert" + by
	case rulesv1.ClientCertificateSource_FROM_CLIENT_CERT:
		return "told in Client-Cert" + by
	}
	return "of the connection"
}

// explainConstraint adds what tokens have to be bound to.
func explainConstraint(out *AuthWay, constraint *rulesv1.SenderConstraint) {
	switch constraint.GetRequire() {
	case rulesv1.SenderConstraint_REQUIRE_ANY:
		out.Detail += ", bound to a key of its bearer"
	case rulesv1.SenderConstraint_REQUIRE_CERTIFICATE:
		out.Detail += ", bound to a client certificate"
	case rulesv1.SenderConstraint_REQUIRE_DPOP:
		out.Detail += ", bound to a DPoP key"
	}
	if constraint.GetDpop().GetRequireNonce() {
		out.Detail += " with nonces of the server"
	}
}
