// Package meshcerts keeps the certificates of a Weir that runs on several
// machines: the authority and one bundle for each part, in a folder or in
// Kubernetes Secrets. What is due it decides by kit/certs; it owns reading,
// writing, and that two of its kind at once do no harm.
package meshcerts
