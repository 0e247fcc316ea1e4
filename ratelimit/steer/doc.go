// Package steer serves weir.limits.v1.LimitService: what the counters hold, who
// is refused most, and the reset of a counter, which is logged with who asked.
// It also answers, over HTTP, which rules a request's descriptors find and what
// each would say. It decides nothing; who may ask is for the server to say.
package steer
