// Package resource holds what every resource of the services has in common:
// ids (AIP-122), names, etags (AIP-154), update masks (AIP-134), and the checks
// of short texts. All of it is pure.
package resource
