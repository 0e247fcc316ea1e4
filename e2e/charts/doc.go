// Package charts holds the checks of what Helm installs: that every values file
// renders to objects that Kubernetes, Weir's own kinds and the pod security
// standard take, to configurations that the daemons take, and that bad values are
// refused by name. Nothing here needs a cluster.
package charts
