// Package doctor looks for what keeps a local Weir from working, or soon will,
// and names the fix of each finding. It changes nothing.
package doctor
