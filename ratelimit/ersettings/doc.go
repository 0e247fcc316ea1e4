// Package ersettings reads the environment by which envoyproxy/ratelimit is
// configured: the same names, defaults and forms of values. Every mistake is
// reported at once, and each name that is set and changes nothing here is
// named, with the reason.
package ersettings
