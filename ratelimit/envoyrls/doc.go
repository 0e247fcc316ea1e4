// Package envoyrls serves Envoy's rate limit service
// (envoy.service.ratelimit.v3.RateLimitService) over a limiter. It translates
// and decides nothing.
//
// # Contract with Envoy's configuration
//
// The domain is the configured one, "weir" unless changed. The first entry of
// each descriptor has the key "weir.limit" and a rule's id as its value; the
// entries after it are what is counted separately. An entry "tier" also picks
// the rule's numbers. Entries whose names begin with "weir." say something of the
// request and are not counted by; see ratelimit.EntryClass and those after it.
//
// # Requests that are told of when they are over
//
// Under rules of concurrency, and those whose costs are settled, the answer to an
// admitted request has dynamic metadata: "tickets", by rule id a text. When the
// request is over, the same descriptor is sent again with one more entry,
// "weir.ticket" with that text, and, where costs are settled, "weir.cost" with what
// the request has cost (Envoy: apply_on_stream_done). Any client of the service can
// do the same, once per ticket. Without it a place is held for the rule's window,
// and what was reserved stays charged.
//
// # Errors
//
// Malformed requests get INVALID_ARGUMENT. A rule that is not known, or a store
// failure under a rule that fails closed, gets UNAVAILABLE, so that Envoy's
// failure mode for the stage decides.
//
// A descriptor's limit override is ignored: numbers come from the operator's
// rules only, and the data plane cannot raise them. Negative hits are refused
// as malformed: they don't say which charge they take back, so that it could not
// be known how much of it has been given back by time; tickets do.
//
// # Answers
//
// Answers carry RateLimit-Policy and RateLimit in the form of
// draft-ietf-httpapi-ratelimit-headers-10, one list member per enforced limit,
// named by the last segment of the rule's id (or by the whole id where two
// limits of a request share it). In RateLimit-Policy q is the rule's requests
// and w its window in seconds; in RateLimit r is what could be admitted now and
// t the seconds until the whole allowance is back. A rule may ask for the older
// RateLimit-Limit, -Remaining and -Reset, or the same with X-, beside these or
// instead: they have room for one limit, the one nearest to refusing. Refusals
// add Retry-After, the seconds until this same request could pass, at least 1.
//
// The dynamic metadata of a refusal names the rule for the access log ("limit"),
// and for the answer's body the limits that refused as clients know them
// ("violated").
package envoyrls
