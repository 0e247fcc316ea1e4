// Package supervisor runs child processes: starts them in stages, waits until
// they are ready, restarts them with backoff, and stops them in order. Children
// never outlive their supervisor. It knows nothing of what the children are.
package supervisor
