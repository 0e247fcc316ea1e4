// Package ratelimit says how often: it owns the rules of rate limits, the
// algorithms that count, and the service that decides one request against
// several limits at once.
//
// It does not own the wire protocol (package envoyrls translates), where
// counters are kept (packages store/memory and store/redis), or where rules
// come from (package rulesfeed). Nothing here reads a clock or does I/O: the
// time of a decision is the store's.
//
// # What is promised
//
// All limits of a request are decided in one call to the store, at one instant
// of the store's clock, all or nothing: if one enforced limit refuses, none is
// charged, so refused requests cost nothing. A limit never admits more than its
// numbers say; where a division leaves a remainder it is kept, not rounded, so
// it does not admit less either.
//
// A key is made of rule id, algorithm, window length and the descriptor's
// entries. A rule whose numbers change therefore keeps its counters, and one
// whose algorithm or window changes starts afresh.
package ratelimit
