package v1alpha1

// AuditMode says whether decisions go to the audit log.
//
// +kubebuilder:validation:Enum=required;bestEffort;none
type AuditMode string

// Modes of audit.
const (
	// AuditRequired writes each decision to disk before it is answered. Where that
	// cannot be done the request is refused.
	AuditRequired AuditMode = "required"
	// AuditBestEffort writes each decision soon; what cannot be written is counted.
	AuditBestEffort AuditMode = "bestEffort"
	AuditNone       AuditMode = "none"
)

// PolicyMode says whether a policy is in force.
//
// +kubebuilder:validation:Enum=Enforce;Shadow
type PolicyMode string

// Modes of a policy.
const (
	// ModeEnforce is the default.
	ModeEnforce PolicyMode = "Enforce"
	// ModeShadow has what the policy would decide compared with what is decided.
	// It stands in for the policies that are enforced on the same target under the
	// same heading (defaults or overrides), and is never in force itself.
	ModeShadow PolicyMode = "Shadow"
)
