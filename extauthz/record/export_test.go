package record

import decisionv1 "weir.dev/api/gen/weir/decision/v1"

// Find is what the service finds.
func Find(k *Keeper, id string) []*decisionv1.Decision { return k.ring.find(k.options.Server, id) }

// Candidates is what the service lists.
func Candidates(k *Keeper) []*decisionv1.Candidate { return k.shadow.list() }
