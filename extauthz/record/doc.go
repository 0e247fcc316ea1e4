// Package record makes records of decisions: what was asked, without its
// credentials, by which rules it was decided, and what was looked at. Keeper
// gives them to those who read them: the audit log, the operator who asks about
// a recent decision, the log. It also compares candidates with the rules in
// force. It decides nothing, but that a decision which must be recorded and
// cannot be is a denial.
package record
