// Package conformance reads the report of the Gateway API's conformance suite,
// holds it against what is known not to pass, and writes it as a table.
package conformance
