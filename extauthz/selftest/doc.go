// Package selftest asks the proxy in front, when extauthz starts, whether it
// reads paths and hosts as extauthz does, and whether it asks extauthz at all.
// Until it does, every check is refused.
package selftest
