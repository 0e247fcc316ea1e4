// Package offenders remembers which keys of each rule were refused most, in
// bounded memory, and says when a rule's counters come near their limits.
//
// It keeps for each rule the space-saving sketch of Metwally, Agrawal and El
// Abbadi (Efficient Computation of Frequent and Top-k Elements in Data Streams,
// 2005): a key that was refused more often than 1/Keys of all refusals of its
// rule is always in it, and its count is too high by at most the error that is
// kept beside it. Counts are halved every half hour, so that they are of about
// the last hour.
//
// Entries can hold addresses of clients: what is kept here is for operators who
// are told who they are, and never for logs or metrics.
package offenders
