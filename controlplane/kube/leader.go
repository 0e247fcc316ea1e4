package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Parts of the lease: how long a leader tries to renew it before it stops, and
// how often everybody looks.
const (
	renewPart = 2.0 / 3
	retryPart = 1.0 / 6
)

// Run takes part in the election and writes status while it leads, until ctx
// ends; it gives the lease back then. Losing it only ends writing: the replica
// goes on serving proxies and stands for election again.
func (w *Writer) Run(ctx context.Context) error {
	leases, err := coordinationv1.NewForConfigAndClient(w.source.rest, w.source.client)
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	config := w.source.config.LeaderElection
	part := func(share float64) time.Duration { return time.Duration(float64(config.Lease) * share) }
	for ctx.Err() == nil {
		// A term of its own each: an elector is not to be used twice.
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: config.Namespace, Name: config.Name},
				Client:     leases,
				LockConfig: resourcelock.ResourceLockConfig{Identity: identity() + "_" + rand.Text()},
			},
			LeaseDuration: config.Lease, RenewDeadline: part(renewPart), RetryPeriod: part(retryPart),
			ReleaseOnCancel: true, Name: config.Name,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: w.lead, OnStoppedLeading: func() {}},
		})
		if err != nil {
			return fmt.Errorf("leader election: %w", err)
		}
		elector.Run(ctx)
		if ctx.Err() == nil {
			w.logger.WarnContext(ctx, "this replica does not write status any more; it goes on serving")
		}
	}
	return ctx.Err()
}
