// Package ads serves xDS resources over one delta ADS stream per client (xDS
// transport protocol, incremental variant) and rolls changes out in steps that
// wait for the clients' acknowledgement.
//
// A resource is sent when its version differs from what the client is known to
// have, one response per type in flight. A rejected (NACKed) resource is not
// sent again until its content changes, so that a rejection neither loops nor
// blocks what comes after.
package ads
