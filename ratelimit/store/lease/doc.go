// Package lease decides charges that ask for it (Charge.Leased) from slices of
// their budget, which it charges to the store beforehand: what is hot then costs
// no call to the store. It owns the slices, their size and their return.
//
// # What is promised
//
// A slice is charged to the shared counter before any of it is spent, in the
// counter's own time: a fixed window's only in that window, GCRA's only by
// requests that the rate and burst admit at the moment they come (see segment).
// So all replicas together never admit more than the limit.
//
// They may admit less. A replica holds at most a few slices of one in Fraction of
// a limit's capacity. Of a fixed window it gives back what it has not used for
// Hold, and what a replica that dies held is lost until the window ends. Of GCRA
// nothing is given back: what isn't used passes. A slice is as large as what was
// asked for in the last Horizon: slow keys have none, and are decided by the
// store.
//
// A request with any limit that has no slice, or none left, asks the store about
// those, all or nothing as ever; what it spent of slices comes back if the store
// refuses.
package lease
