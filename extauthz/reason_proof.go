package extauthz

import (
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

// Reasons of proofs of possession: client certificates, bound tokens, signed
// requests.
const (
	ReasonCertificateInvalid     Reason = "CERTIFICATE_INVALID"
	ReasonCertificateExpired     Reason = "CERTIFICATE_EXPIRED"
	ReasonCertificateNotYetValid Reason = "CERTIFICATE_NOT_YET_VALID"
	// ReasonCertificateRevoked is for logs, metrics and metadata; the client is
	// told CERTIFICATE_INVALID.
	ReasonCertificateRevoked Reason = "CERTIFICATE_REVOKED"
	// ReasonRevocationUnknown says that an authority's revocation list is absent
	// or out of date.
	ReasonRevocationUnknown Reason = "CERTIFICATE_REVOCATION_UNKNOWN"
	// ReasonCertificateName says that a certificate is good and names nobody whom
	// the policy knows.
	ReasonCertificateName Reason = "CERTIFICATE_NAME_NOT_ACCEPTED"
	// ReasonHopUntrusted says that a header about a certificate came from a peer
	// that is not believed. The client is told CERTIFICATE_INVALID.
	ReasonHopUntrusted Reason = "CERTIFICATE_HOP_UNTRUSTED"

	// ReasonTokenNotBound says that a token is bound to nothing, or not to what
	// the policy demands.
	ReasonTokenNotBound Reason = "TOKEN_NOT_BOUND"
	// ReasonTokenBinding says that a bound token came without the proof, or with
	// that of another key.
	ReasonTokenBinding Reason = "TOKEN_BINDING_MISMATCH"
	ReasonDPoPInvalid  Reason = "DPOP_PROOF_INVALID"
	ReasonDPoPNonce    Reason = "DPOP_NONCE_REQUIRED"
	// ReasonDPoPReplayed is for logs, metrics and metadata; the client is told
	// DPOP_PROOF_INVALID.
	ReasonDPoPReplayed Reason = "DPOP_PROOF_REPLAYED"

	ReasonSignatureInvalid Reason = "SIGNATURE_INVALID"
	// ReasonSignatureExpired covers all of its times.
	ReasonSignatureExpired Reason = "SIGNATURE_EXPIRED"
	// ReasonSignatureCoverage says that a signature leaves out what it has to
	// cover.
	ReasonSignatureCoverage Reason = "SIGNATURE_COVERAGE"
	// ReasonSignatureReplayed is for logs, metrics and metadata; the client is
	// told SIGNATURE_INVALID.
	ReasonSignatureReplayed Reason = "SIGNATURE_REPLAYED"
	ReasonContentDigest     Reason = "CONTENT_DIGEST_MISMATCH"
	// ReasonReplayUnknown says that nobody knows whether a proof was used before:
	// the memory of used ones is full or cannot be reached.
	ReasonReplayUnknown Reason = "REPLAY_STORE_UNAVAILABLE"
)

// proofFault is Fault for the reasons of this file; nil for others.
func (r Reason) proofFault() *fault.Error {
	switch r {
	case ReasonCertificateInvalid, ReasonCertificateRevoked, ReasonHopUntrusted:
		return fault.New(codes.Unauthenticated, string(ReasonCertificateInvalid), "the client certificate is not valid")
	case ReasonCertificateExpired:
		return fault.New(codes.Unauthenticated, string(r), "the client certificate has expired")
	case ReasonCertificateNotYetValid:
		return fault.New(codes.Unauthenticated, string(r), "the client certificate is not valid yet")
	case ReasonRevocationUnknown:
		return fault.New(codes.Unavailable, string(r), "whether the client certificate is revoked cannot be found out; retry shortly")
	case ReasonCertificateName:
		return fault.New(codes.PermissionDenied, string(r), "the client certificate names nobody who is accepted here")
	case ReasonTokenNotBound:
		return fault.New(codes.Unauthenticated, string(r), "the token has to be bound to a key of its bearer")
	case ReasonTokenBinding:
		return fault.New(codes.Unauthenticated, string(r), "the token is bound to a key that was not proven")
	case ReasonDPoPInvalid, ReasonDPoPReplayed:
		return fault.New(codes.Unauthenticated, string(ReasonDPoPInvalid), "the DPoP proof is not valid")
	case ReasonDPoPNonce:
		return fault.New(codes.Unauthenticated, string(r), "the DPoP proof needs the nonce of the header DPoP-Nonce")
	case ReasonSignatureInvalid, ReasonSignatureReplayed:
		return fault.New(codes.Unauthenticated, string(ReasonSignatureInvalid), "the signature is not valid")
	case ReasonSignatureExpired:
		return fault.New(codes.Unauthenticated, string(r), "the signature was made too long ago or in the future")
	case ReasonSignatureCoverage:
		return fault.New(codes.Unauthenticated, string(r), "the signature does not cover all that it has to")
	case ReasonContentDigest:
		return fault.New(codes.Unauthenticated, string(r), "the body is not the one that was signed")
	case ReasonReplayUnknown:
		return fault.New(codes.Unavailable, string(r), "whether the proof was used before cannot be found out; retry shortly")
	}
	return nil
}
